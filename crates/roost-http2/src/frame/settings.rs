//! Settings of one side (RFC 9113 6.5.2, RFC 8441 3).

use super::{FRAME_BYTES_MAX, NUMBER_MAX};

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// The longest frame that a side may allow the other.
const MAX_FRAME_SIZE_MAX: u32 = (1 << 24) - 1;

/// Settings of one frame; what it does not name stays as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of the dynamic table of the other side's encoder, at most.
    pub header_table_size: Option<u32>,
    /// Whether responses may be pushed.
    pub enable_push: Option<bool>,
    /// Streams that the other side may have open.
    pub max_concurrent_streams: Option<u32>,
    /// The window that each stream begins with.
    pub initial_window_size: Option<u32>,
    /// The longest frame that the other side may send.
    pub max_frame_size: Option<u32>,
    /// Bytes of a header list, as RFC 9113 6.5.2 counts them, that are taken.
    pub max_header_list_size: Option<u32>,
    /// Whether extended CONNECT is understood.
    pub enable_connect_protocol: Option<bool>,
}

/// Settings that are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadSetting {
    /// The frame does not consist of whole settings.
    Length,
    /// A window is too large.
    Window,
    /// Another value is out of its range.
    Value,
}

impl Settings {
    pub(super) fn read(payload: &[u8]) -> Result<Self, BadSetting> {
        let (settings, []) = payload.as_chunks::<6>() else {
            return Err(BadSetting::Length);
        };
        let mut read = Self::default();
        for [i0, i1, v0, v1, v2, v3] in settings {
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            match u16::from_be_bytes([*i0, *i1]) {
                HEADER_TABLE_SIZE => read.header_table_size = Some(value),
                ENABLE_PUSH => read.enable_push = Some(flag(value)?),
                MAX_CONCURRENT_STREAMS => read.max_concurrent_streams = Some(value),
                INITIAL_WINDOW_SIZE if value > NUMBER_MAX => return Err(BadSetting::Window),
                INITIAL_WINDOW_SIZE => read.initial_window_size = Some(value),
                MAX_FRAME_SIZE if !(FRAME_BYTES_MAX..=MAX_FRAME_SIZE_MAX).contains(&value) => {
                    return Err(BadSetting::Value);
                }
                MAX_FRAME_SIZE => read.max_frame_size = Some(value),
                MAX_HEADER_LIST_SIZE => read.max_header_list_size = Some(value),
                ENABLE_CONNECT_PROTOCOL => read.enable_connect_protocol = Some(flag(value)?),
                _ => {}
            }
        }
        Ok(read)
    }

    /// Those that are set, with their numbers.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u16, u32)> {
        [
            (HEADER_TABLE_SIZE, self.header_table_size),
            (ENABLE_PUSH, self.enable_push.map(u32::from)),
            (MAX_CONCURRENT_STREAMS, self.max_concurrent_streams),
            (INITIAL_WINDOW_SIZE, self.initial_window_size),
            (MAX_FRAME_SIZE, self.max_frame_size),
            (MAX_HEADER_LIST_SIZE, self.max_header_list_size),
            (
                ENABLE_CONNECT_PROTOCOL,
                self.enable_connect_protocol.map(u32::from),
            ),
        ]
        .into_iter()
        .filter_map(|(id, value)| Some((id, value?)))
    }
}

fn flag(value: u32) -> Result<bool, BadSetting> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(BadSetting::Value),
    }
}
