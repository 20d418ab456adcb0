//! What was read of a request body, so that it can be sent again.
//!
//! Bounded for each body and for all: a body that grows beyond goes on
//! streaming, but can be sent only once.

use crate::limits;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug, Clone)]
enum Piece {
    Data(Bytes),
    /// On the heap: few bodies have them.
    Trailers(Box<HeaderMap>),
}

/// Why a body cannot be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotKept {
    /// It is longer than what is kept of one body.
    TooLong,
    /// Those of others left no room for it.
    NoRoom,
    /// It broke off, or nobody was to ask for it again.
    Gone,
}

/// The pieces of one body from its beginning, as long as all are here.
#[derive(Debug)]
pub(crate) struct Kept {
    pieces: Vec<Piece>,
    bytes: usize,
    /// What it counts for among all bodies.
    cost: usize,
    /// Whether nothing of what was read is missing.
    whole: Result<(), NotKept>,
    /// Bytes that all bodies keep.
    of_all: Arc<AtomicUsize>,
}

impl Kept {
    /// Nothing yet.
    pub(crate) fn new(of_all: &Arc<AtomicUsize>) -> Self {
        Self {
            pieces: Vec::new(),
            bytes: 0,
            cost: 0,
            whole: Ok(()),
            of_all: of_all.clone(),
        }
    }

    /// Whether nothing of what was read is missing.
    pub(crate) fn whole(&self) -> Result<(), NotKept> {
        self.whole
    }

    /// One piece by its number.
    pub(crate) fn piece(&self, number: usize) -> Option<Frame<Bytes>> {
        Some(match self.pieces.get(number)? {
            Piece::Data(data) => Frame::data(data.clone()),
            Piece::Trailers(trailers) => Frame::trailers(HeaderMap::clone(trailers)),
        })
    }

    /// Adds the next piece, or forgets all when there is no room for it.
    pub(crate) fn add(&mut self, frame: &Frame<Bytes>) {
        if self.whole.is_err() {
            return;
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.pieces
                .push(Piece::Trailers(Box::new(trailers.clone())));
        }
        let Some(data) = frame.data_ref() else { return };
        // A small piece is copied: a slice would keep the whole buffer that it was read into.
        let piece = match data.len() {
            0..limits::KEPT_SLICE_BYTES_MIN => Bytes::copy_from_slice(data),
            _ => data.clone(),
        };
        let cost = data.len() + limits::KEPT_PIECE_COST_BYTES;
        let of_all = self.of_all.fetch_add(cost, Ordering::Relaxed) + cost;
        self.cost += cost;
        self.bytes += data.len();
        self.pieces.push(Piece::Data(piece));
        if self.bytes > limits::KEPT_BODY_BYTES_MAX
            || self.pieces.len() > limits::KEPT_BODY_PIECES_MAX
        {
            self.forget(NotKept::TooLong);
        } else if of_all > limits::KEPT_BODIES_BYTES_MAX {
            self.forget(NotKept::NoRoom);
        }
    }

    /// Keeps nothing from now on.
    pub(crate) fn forget(&mut self, why: NotKept) {
        self.of_all.fetch_sub(self.cost, Ordering::Relaxed);
        (self.bytes, self.cost) = (0, 0);
        self.whole = self.whole.and(Err(why));
        self.pieces = Vec::new();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.forget(NotKept::Gone);
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, NotKept};
    use crate::limits;
    use bytes::Bytes;
    use http_body::Frame;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_small_piece_leaves_its_buffer_and_a_large_one_shares_it() {
        let of_all = Arc::default();
        let mut kept = Kept::new(&of_all);
        let buffer = Bytes::from(vec![1; limits::KEPT_SLICE_BYTES_MIN * 2]);
        kept.add(&Frame::data(
            buffer.slice(..limits::KEPT_SLICE_BYTES_MIN - 1),
        ));
        assert!(buffer.is_unique());
        kept.add(&Frame::data(buffer.slice(..limits::KEPT_SLICE_BYTES_MIN)));
        assert!(!buffer.is_unique());
    }

    #[test]
    fn each_piece_has_a_cost_and_many_small_ones_are_not_kept() {
        let of_all = Arc::<AtomicUsize>::default();
        let mut kept = Kept::new(&of_all);
        let piece = Frame::data(Bytes::from_static(b"x"));
        for number in 1..=limits::KEPT_BODY_PIECES_MAX {
            kept.add(&piece);
            let cost = number * (1 + limits::KEPT_PIECE_COST_BYTES);
            assert_eq!(of_all.load(Ordering::Relaxed), cost);
        }
        assert_eq!(kept.whole(), Ok(()));
        kept.add(&piece);
        assert_eq!(kept.whole(), Err(NotKept::TooLong));
        assert_eq!(of_all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_body_for_which_others_leave_no_room_is_not_called_long() {
        let of_all = Arc::new(AtomicUsize::new(limits::KEPT_BODIES_BYTES_MAX));
        let mut kept = Kept::new(&of_all);
        kept.add(&Frame::data(Bytes::from_static(b"x")));
        assert_eq!(kept.whole(), Err(NotKept::NoRoom));
        kept.forget(NotKept::Gone);
        assert_eq!(kept.whole(), Err(NotKept::NoRoom), "the first reason stays");
        drop(kept);
        assert_eq!(
            of_all.load(Ordering::Relaxed),
            limits::KEPT_BODIES_BYTES_MAX
        );
    }
}
