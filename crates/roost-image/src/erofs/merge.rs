//! Merging layers as overlayfs does, into one [`Tree`].
//!
//! What the highest layer has under a name counts. Directories of one name are
//! merged, from the highest down to the first that is opaque or below which
//! the name is something else.

use super::WriteErofsError;
use super::layers::{Found, LayerDir, Layers};
use super::tree::{Node, ROOT_IDX, Tree, too_many_inodes};
use crate::limits::ROOT_IMAGE_INODES_MAX;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// What init mounts on or links into, with permissions; made where no layer has it.
const MOUNT_POINTS: [(&[u8], u16); 6] = [
    (b"dev", 0o755),
    (b"etc", 0o755),
    (b"proc", 0o755),
    (b"run", 0o755),
    (b"sys", 0o755),
    (b"tmp", 0o1777),
];

pub(super) fn merge(layers: &Layers) -> Result<Tree, WriteErofsError> {
    let all: LayerSet = layers.numbers().collect();
    let (root, xattrs) = match layers.numbers().next() {
        None => (Node::directory(0o755), Vec::new()),
        Some(highest) => {
            let dir = layers.open_dir(highest, b"")?;
            let both = dir.node().and_then(|node| Ok((node, dir.xattrs(b"")?)));
            both.map_err(|error| WriteErofsError::read(b"", error))?
        }
    };
    let mut merge = Merge {
        tree: Tree::new(root),
        waiting: VecDeque::from([(ROOT_IDX, all)]),
        links: HashMap::new(),
    };
    merge.tree.set_xattrs(ROOT_IDX, &xattrs)?;
    while let Some((node_idx, layers_of_dir)) = merge.waiting.pop_front() {
        merge.directory(layers, node_idx, layers_of_dir)?;
    }
    Ok(merge.tree)
}

/// Some of the layers, a bit for each.
#[derive(Debug, Clone, Copy, Default)]
struct LayerSet(u128);

impl LayerSet {
    fn has(self, layer: u8) -> bool {
        self.0 >> layer & 1 == 1
    }

    fn add(&mut self, layer: u8) {
        self.0 |= 1 << layer;
    }
}

impl FromIterator<u8> for LayerSet {
    fn from_iter<I: IntoIterator<Item = u8>>(layers: I) -> Self {
        let mut set = Self::default();
        layers.into_iter().for_each(|layer| set.add(layer));
        set
    }
}

/// What becomes of a name, layer by layer downwards.
#[derive(Debug)]
enum Merged {
    /// Nothing: a layer hides the name.
    Hidden,
    Directory {
        node: Node,
        layers: LayerSet,
        /// Whether lower layers are hidden.
        is_closed: bool,
    },
    Other {
        node: Node,
        /// Its inode in its layer, if that has more names.
        inode: Option<u64>,
    },
}

struct Merge {
    tree: Tree,
    /// Directories whose names are still to be read, and the layers that count there.
    waiting: VecDeque<(usize, LayerSet)>,
    /// Files with several names, by layer and inode there.
    links: HashMap<(u8, u64), usize>,
}

impl Merge {
    fn directory(
        &mut self,
        layers: &Layers,
        node_idx: usize,
        layers_here: LayerSet,
    ) -> Result<(), WriteErofsError> {
        let path = self.tree.path(node_idx);
        let read = |error: Errno| WriteErofsError::read(&path, error);
        let mut dirs: BTreeMap<u8, LayerDir> = BTreeMap::new();
        let mut names: BTreeMap<Vec<u8>, Merged> = BTreeMap::new();
        for layer in layers.numbers().filter(|layer| layers_here.has(*layer)) {
            let dir = layers.open_dir(layer, &path)?;
            for name in dir.names().map_err(read)? {
                let name = name.map_err(|error| WriteErofsError::read(&path, error))?;
                if names.len() >= ROOT_IMAGE_INODES_MAX {
                    return Err(too_many_inodes());
                }
                merge_name(&mut names, &dir, name).map_err(read)?;
            }
            dirs.insert(layer, dir);
        }
        if node_idx == ROOT_IDX {
            add_mount_points(&mut names);
        }
        self.tree.begin_directory(node_idx);
        for (name, merged) in names {
            self.add(node_idx, &name, merged, &dirs)
                .map_err(|error| match error {
                    AddError::Read(error) => {
                        WriteErofsError::read(&[&path[..], b"/", &name].concat(), error)
                    }
                    AddError::Tree(error) => error,
                })?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        parent_idx: usize,
        name: &[u8],
        merged: Merged,
        dirs: &BTreeMap<u8, LayerDir>,
    ) -> Result<(), AddError> {
        let (node, inode, layers) = match merged {
            Merged::Hidden => return Ok(()),
            Merged::Directory { node, layers, .. } => (node, None, Some(layers)),
            Merged::Other { node, inode } => (node, inode, None),
        };
        let link = node.layer.zip(inode);
        if let Some(first_idx) = link.and_then(|link| self.links.get(&link)) {
            return Ok(self.tree.add_name(parent_idx, name, *first_idx)?);
        }
        let dir = node.layer.and_then(|layer| dirs.get(&layer));
        let has_xattrs = matches!(node.kind(), FileType::RegularFile | FileType::Directory);
        let node_idx = self.tree.add_node(parent_idx, name, node)?;
        if let Some(dir) = dir.filter(|_| has_xattrs) {
            let xattrs = dir.xattrs(name).map_err(AddError::Read)?;
            self.tree.set_xattrs(node_idx, &xattrs)?;
        }
        if let Some(link) = link {
            self.links.insert(link, node_idx);
        }
        if let Some(layers) = layers {
            self.waiting.push_back((node_idx, layers));
        }
        Ok(())
    }
}

/// Why a name could not be added.
enum AddError {
    Read(Errno),
    Tree(WriteErofsError),
}

impl From<WriteErofsError> for AddError {
    fn from(error: WriteErofsError) -> Self {
        Self::Tree(error)
    }
}

/// Takes into account what the next lower layer has under a name.
fn merge_name(
    names: &mut BTreeMap<Vec<u8>, Merged>,
    dir: &LayerDir,
    name: Vec<u8>,
) -> Result<(), Errno> {
    match names.get_mut(&name) {
        Some(Merged::Directory {
            layers, is_closed, ..
        }) if !*is_closed => {
            if matches!(dir.find(&name)?, Found::Directory(_)) {
                layers.add(dir.layer);
                *is_closed = dir.is_opaque(&name)?;
            } else {
                *is_closed = true;
            }
        }
        Some(_) => {}
        None => {
            let merged = match dir.find(&name)? {
                Found::Whiteout => Merged::Hidden,
                Found::Directory(node) => Merged::Directory {
                    node,
                    layers: LayerSet::from_iter([dir.layer]),
                    is_closed: dir.is_opaque(&name)?,
                },
                Found::Other {
                    node,
                    inode,
                    has_links,
                } => Merged::Other {
                    node,
                    inode: has_links.then_some(inode),
                },
            };
            names.insert(name, merged);
        }
    }
    Ok(())
}

fn add_mount_points(names: &mut BTreeMap<Vec<u8>, Merged>) {
    for (name, permissions) in MOUNT_POINTS {
        let is_missing = matches!(names.get(name), None | Some(Merged::Hidden));
        if is_missing {
            let merged = Merged::Directory {
                node: Node::directory(permissions),
                layers: LayerSet::default(),
                is_closed: true,
            };
            names.insert(name.to_vec(), merged);
        }
    }
}
