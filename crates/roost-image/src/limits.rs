//! Every bound of this crate, in one place.

use std::time::Duration;

/// Largest manifest or image index (the distribution specification asks for at least 4 MiB).
pub const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Largest image config.
pub const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most layers in one image (overlayfs stops at 500 lower directories; Docker at 127).
pub const LAYERS_MAX: usize = 127;
/// Most manifests in one image index.
pub const INDEX_MANIFESTS_MAX: usize = 256;
/// Largest compressed layer.
pub const LAYER_BYTES_MAX: u64 = 16 << 30;
/// Largest sum of the compressed layers of one image.
pub const IMAGE_BYTES_MAX: u64 = 32 << 30;

/// Largest layer once unpacked.
pub const UNPACKED_BYTES_MAX: u64 = 32 << 30;
/// Most entries in one layer.
pub const ENTRIES_MAX: u64 = 2_000_000;
/// Most bytes in the paths of a layer's directories: they are kept until all is unpacked.
pub const DIRECTORY_PATHS_BYTES_MAX: u64 = 128 << 20;
/// Longest path inside a layer.
pub const PATH_BYTES_MAX: usize = 4_095;
/// Most components in a path inside a layer.
pub const PATH_DEPTH_MAX: usize = 256;
/// Largest extended header (PAX or GNU long name) of one entry.
pub const EXTENDED_HEADER_BYTES_MAX: u64 = 1024 * 1024;
/// Most extended attributes on one entry.
pub const XATTRS_MAX: usize = 64;
/// Largest user or group id: machines map 65,536 ids.
pub const ID_MAX: u64 = 65_535;
/// How many times larger than its blob a layer may become; gzip itself stops at about 1,030.
pub const COMPRESSION_RATIO_MAX: u64 = 400;
/// The ratio is not looked at below this unpacked size: sparse little layers are harmless.
pub const COMPRESSION_RATIO_FLOOR_BYTES: u64 = 256 << 20;
/// Most memory that a zstd frame may ask for, as a power of two (128 MiB, as the `zstd` tool).
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Most files and directories in the root file system of a VM: each takes up to 400 bytes of
/// memory, beside its name, while it is written.
pub const ROOT_IMAGE_INODES_MAX: usize = 1_000_000;
/// Most names there; hard links have several.
pub const ROOT_IMAGE_NAMES_MAX: usize = 2_000_000;
/// Most bytes in all names there.
pub const ROOT_IMAGE_NAMES_BYTES_MAX: usize = 128 << 20;
/// Most bytes in all extended attributes there.
pub const ROOT_IMAGE_XATTRS_BYTES_MAX: usize = 64 << 20;
/// Largest root file system of a VM.
pub const ROOT_IMAGE_BYTES_MAX: u64 = 64 << 30;

/// Layers of one image that are downloaded at the same time.
pub const LAYERS_PARALLEL: usize = 3;
/// Layers that are unpacked at the same time, over all images.
pub const UNPACKS_PARALLEL: usize = 2;
/// A download without a byte for this long is broken off and resumed.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait for a connection to a registry.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the head of an answer.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts in a row of one download that bring no new byte.
pub const ATTEMPTS_MAX: u32 = 5;
/// All attempts of one download: a connection that drops after each few bytes ends too.
pub const ATTEMPTS_TOTAL_MAX: u32 = 100;
/// Wait before the second attempt; doubles with each further one.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest wait between two attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Most redirects of one request.
pub const REDIRECTS_MAX: u32 = 5;
/// Largest answer of a token service.
pub const TOKEN_BYTES_MAX: u64 = 64 * 1024;
/// Most tokens that are remembered.
pub const TOKENS_MAX: usize = 256;
/// Largest part of a registry's error answer that is read.
pub const ERROR_BODY_BYTES_MAX: u64 = 16 * 1024;

/// Bytes that a blob writer collects before it hands them to the disk.
pub const WRITE_BUFFER_BYTES: usize = 512 * 1024;
/// Unfinished downloads older than this are removed when the store opens.
pub const PARTIAL_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Content used within this time is not collected: an upload or a deploy may be about to name it.
pub const GARBAGE_AGE_MIN: Duration = Duration::from_secs(3600);
/// How exactly it is known when content was used last, in milliseconds.
pub const USE_RESOLUTION_MS: u64 = 60_000;
/// Most members of an archive that is imported.
pub const ARCHIVE_MEMBERS_MAX: usize = 10_000;
/// Most bytes of all members of an archive that is imported, decompressed.
pub const ARCHIVE_BYTES_MAX: u64 = 32 << 30;
/// Most names that one listing returns.
pub const LIST_MAX: usize = 1_000;

/// Largest body of a request to the registry that is no push: none is needed, and some clients send a little.
pub const NON_UPLOAD_BODY_BYTES_MAX: u64 = 64 * 1024;
/// Most uploads that are open in the registry.
pub const UPLOADS_MAX: usize = 256;
/// An upload that nobody continues for this long makes room for others.
pub const UPLOAD_AGE_MAX: Duration = Duration::from_secs(3600);
/// An upload without a byte for this long is broken off.
pub const UPLOAD_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a blob that are read at a time to send it.
pub const BLOB_READ_BYTES: usize = 256 * 1024;

/// Most bytes of all files of a folder that is built.
pub const BUILD_BYTES_MAX: u64 = 4 << 30;
/// Most files and folders of a folder that is built.
pub const BUILD_ENTRIES_MAX: usize = 200_000;
/// Most bytes in the paths of the links of a folder that is built: they are kept until all is unpacked.
pub const LINK_PATHS_BYTES_MAX: usize = 32 << 20;
/// How often a file in a user's folder is opened anew when the system moved something meanwhile.
pub const OPEN_BENEATH_TRIES: u32 = 1_000;
/// Bytes of a layer that are handed to the store at a time.
pub const LAYER_CHUNK_BYTES: usize = 256 * 1024;
/// Most such chunks under way.
pub const LAYER_CHUNKS_MAX: usize = 8;
