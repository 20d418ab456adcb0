//! Folders of modules as Debian has them, and wrong ones.
