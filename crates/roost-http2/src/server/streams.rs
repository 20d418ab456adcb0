//! The streams of a connection.

use super::Service;
use super::stream::Stream;
use crate::ready::{Ready, SLOTS};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

/// An idle connection keeps places for so many.
const PLACES_KEPT: usize = 32;
/// Streams that are remembered after this side has reset them.
const RESET_KEPT: usize = 2 * SLOTS;

/// See the module.
pub(super) struct Streams<S: Service> {
    /// On the heap: a stream is large, and goes in and out.
    slots: Vec<Option<Box<Stream<S>>>>,
    /// One for each slot, whatever stream has it.
    wakers: Vec<Waker>,
    /// By number, which only grows.
    by_id: Vec<(u32, usize)>,
    free: Vec<usize>,
    /// Streams that have something to do, beside those that were woken.
    due: u128,
    /// Where the next turn begins.
    next: u32,
    /// Those that this side has reset last: the client may not have heard of it yet.
    reset: VecDeque<u32>,
}

impl<S: Service> Streams<S> {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            wakers: Vec::new(),
            by_id: Vec::new(),
            free: Vec::new(),
            due: 0,
            next: 0,
            reset: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// A slot for another stream, which is to be put there at once.
    pub(super) fn free_slot(&mut self, ready: &Arc<Ready>) -> Option<usize> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.slots.len();
        if slot >= SLOTS {
            return None;
        }
        self.slots.push(None);
        self.wakers.push(ready.waker(slot));
        Some(slot)
    }

    /// Puts a stream into its slot. Its number is higher than those of all others.
    pub(super) fn insert(&mut self, slot: usize, stream: Box<Stream<S>>) {
        if let Some(place) = self.slots.get_mut(slot) {
            self.by_id.push((stream.id, slot));
            *place = Some(stream);
            self.is_due(slot);
        }
    }

    pub(super) fn slot_of(&self, id: u32) -> Option<usize> {
        let at = self.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.by_id.get(at).map(|(_, slot)| *slot)
    }

    /// The stream in a slot, and its waker.
    pub(super) fn in_slot(&mut self, slot: usize) -> Option<(&mut Stream<S>, &Waker)> {
        let stream = self.slots.get_mut(slot)?.as_deref_mut()?;
        Some((stream, self.wakers.get(slot)?))
    }

    pub(super) fn by_id(&mut self, id: u32) -> Option<(usize, &mut Stream<S>)> {
        let slot = self.slot_of(id)?;
        let (stream, _) = self.in_slot(slot)?;
        Some((slot, stream))
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = (usize, &mut Stream<S>)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(slot, stream)| Some((slot, stream.as_deref_mut()?)))
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<Box<Stream<S>>> {
        let stream = self.slots.get_mut(slot)?.take()?;
        if let Ok(at) = self.by_id.binary_search_by_key(&stream.id, |(id, _)| *id) {
            self.by_id.remove(at);
        }
        self.free.push(slot);
        if self.by_id.is_empty() && self.slots.len() > PLACES_KEPT {
            *self = Self {
                reset: std::mem::take(&mut self.reset),
                ..Self::new()
            };
        }
        Some(stream)
    }

    /// The stream has something to do.
    pub(super) fn is_due(&mut self, slot: usize) {
        self.due |= 1 << (slot % SLOTS);
    }

    /// The streams of these slots have something to do.
    pub(super) fn are_due(&mut self, slots: u128) {
        self.due |= slots;
    }

    /// All that have something to do, with those that were woken.
    pub(super) fn take_due(&mut self, ready: &Ready) -> Due {
        Due {
            slots: std::mem::take(&mut self.due) | ready.take(),
            first: self.next,
        }
    }

    /// These have not had their turn.
    pub(super) fn put_back(&mut self, due: &Due) {
        self.due |= due.slots;
        self.next = due.first;
    }

    pub(super) fn has_due(&self) -> bool {
        self.due != 0
    }

    /// Remembers that this side has reset a stream.
    pub(super) fn note_reset(&mut self, id: u32) {
        if self.reset.len() >= RESET_KEPT {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// Whether this side has reset the stream.
    pub(super) fn was_reset(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }
}

/// Slots whose streams are to have their turn, each once, the next one first.
pub(super) struct Due {
    slots: u128,
    first: u32,
}

impl Iterator for Due {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.slots == 0 {
            return None;
        }
        let ahead = self.slots.rotate_right(self.first).trailing_zeros();
        let slot = (self.first + ahead) % u128::BITS;
        self.slots &= !(1 << slot);
        self.first = (slot + 1) % u128::BITS;
        Some(slot as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::Due;

    #[test]
    fn turns_go_round() {
        let slots = 1 | 1 << 5 | 1 << 127;
        for (first, expected) in [(0, [0, 5, 127]), (1, [5, 127, 0]), (6, [127, 0, 5])] {
            let turns: Vec<usize> = Due { slots, first }.collect();
            assert_eq!(turns, expected);
        }
    }
}
