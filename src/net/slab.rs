//! Where a worker keeps its connections: numbered places that are reused.
//!
//! A key is the number of a place and of its use, so that an event for a connection that has left
//! the place is ignored instead of being delivered to the next one.
//!
//! Places are in blocks of one size, and the lowest free place is taken: no block moves when there
//! are more, and blocks at the end become free and are given back when there are fewer.

use crate::net::room::{ITEMS_KEPT, make_room_in_list};

/// Places in a block; each has a bit of a word.
const BLOCK_PLACES: usize = u64::BITS as usize;

/// The number of a place, and which of its values is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The place.
    pub index: u32,
    /// How many values the slab had taken before, in 31 bits.
    pub generation: u32,
}

impl From<Key> for u64 {
    fn from(key: Key) -> u64 {
        u64::from(key.generation) << 32 | u64::from(key.index)
    }
}

impl From<u64> for Key {
    fn from(number: u64) -> Key {
        let [index, generation] = [number, number >> 32].map(|half| half & u64::from(u32::MAX));
        let half = |half| u32::try_from(half).unwrap_or(0);
        Key {
            index: half(index),
            generation: half(generation),
        }
    }
}

/// Values in numbered places.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    blocks: Vec<Block<T>>,
    /// No block before this one has a free place.
    first_free: usize,
    len: usize,
    generation: u32,
}

#[derive(Debug)]
struct Block<T> {
    /// A bit for each place that holds a value.
    taken: u64,
    places: Box<[Place<T>]>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            blocks: Vec::with_capacity(ITEMS_KEPT),
            first_free: 0,
            len: 0,
            generation: 0,
        }
    }
}

impl<T> Slab<T> {
    /// Bytes of one value with its place.
    pub(crate) const BYTES_EACH: usize = size_of::<Place<T>>();

    /// The least that a slab takes, and the most that is free beside its values.
    pub(crate) const BLOCK_BYTES: usize = size_of::<Block<T>>() + BLOCK_PLACES * Self::BYTES_EACH;

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Inserts the value that `make` builds from its key, into the first free place.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        while self
            .blocks
            .get(self.first_free)
            .is_some_and(|block| block.taken == u64::MAX)
        {
            self.first_free += 1;
        }
        if self.first_free == self.blocks.len() {
            make_room_in_list(&mut self.blocks);
            self.blocks.push(Block::default());
        }
        let block = &mut self.blocks[self.first_free];
        let at = block.taken.trailing_ones() as usize;
        let index = u32::try_from(self.first_free * BLOCK_PLACES + at)
            .expect("descriptors, and so connections, fit 31 bits");
        let key = Key {
            index,
            generation: self.generation,
        };
        // 31 bits: the top bit of a token tells clients from backends (see net/poller.rs).
        self.generation = (self.generation + 1) & 0x7fff_ffff;
        block.taken |= 1 << at;
        block.places[at] = Place {
            generation: key.generation,
            value: Some(make(key)),
        };
        self.len += 1;
        key
    }

    /// The value with this key, unless it has been removed.
    #[inline(always)]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.place(key.index)?;
        if place.generation == key.generation {
            place.value.as_mut()
        } else {
            None
        }
    }

    /// The value in this place now, with its key.
    pub(crate) fn at(&self, index: u32) -> Option<(Key, &T)> {
        let block = self.blocks.get(index as usize / BLOCK_PLACES)?;
        let place = &block.places[index as usize % BLOCK_PLACES];
        let key = Key {
            index,
            generation: place.generation,
        };
        place.value.as_ref().map(|value| (key, value))
    }

    /// Removes the value; its key is then void.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.place(key.index)?;
        if place.generation != key.generation {
            return None;
        }
        let value = place.value.take()?;
        let number = key.index as usize / BLOCK_PLACES;
        self.blocks[number].taken &= !(1 << (key.index as usize % BLOCK_PLACES));
        self.first_free = self.first_free.min(number);
        self.len -= 1;
        Some(value)
    }

    /// The keys of all values.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let places = self.blocks.iter().flat_map(|block| &block.places);
        let occupied = |(place, index): (&Place<T>, u32)| {
            place.value.as_ref().map(|_| Key {
                index,
                generation: place.generation,
            })
        };
        places.zip(0..).filter_map(occupied).collect()
    }

    /// Whether there is memory to give back.
    pub(crate) fn has_unused(&self) -> bool {
        self.blocks.last().is_some_and(|block| block.taken == 0)
    }

    /// Gives back the empty blocks at the end.
    pub(crate) fn give_back(&mut self) {
        while self.has_unused() {
            self.blocks.pop();
        }
        if self.blocks.is_empty() && self.blocks.capacity() > ITEMS_KEPT {
            self.blocks = Vec::with_capacity(ITEMS_KEPT);
        }
        self.first_free = self.first_free.min(self.blocks.len());
    }

    #[inline(always)]
    fn place(&mut self, index: u32) -> Option<&mut Place<T>> {
        let block = self.blocks.get_mut(index as usize / BLOCK_PLACES)?;
        Some(&mut block.places[index as usize % BLOCK_PLACES])
    }
}

impl<T> Default for Block<T> {
    fn default() -> Self {
        let free = || Place {
            generation: 0,
            value: None,
        };
        Self {
            taken: 0,
            places: std::iter::repeat_with(free).take(BLOCK_PLACES).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_value_until_it_is_removed() {
        let mut slab = Slab::default();
        let key = slab.insert_with(|_| "a");
        assert_eq!(slab.get_mut(key), Some(&mut "a"));
        assert_eq!(slab.remove(key), Some("a"));
        assert_eq!(slab.remove(key), None);
        assert!(slab.get_mut(key).is_none() && slab.is_empty());
    }

    #[test]
    fn a_used_place_is_used_again_under_another_key() {
        let mut slab = Slab::default();
        let old = slab.insert_with(|_| "old");
        slab.remove(old);
        let new = slab.insert_with(|_| "new");
        assert_eq!(new.index, old.index);
        assert!(slab.get_mut(old).is_none());
        assert_eq!(slab.get_mut(new), Some(&mut "new"));
    }

    #[test]
    fn the_lowest_free_place_is_taken_and_blocks_at_the_end_are_given_back() {
        let mut slab = Slab::default();
        let keys: Vec<Key> = (0..BLOCK_PLACES * 3)
            .map(|n| slab.insert_with(|_| n))
            .collect();
        for key in [150, 70, 3] {
            assert_eq!(slab.remove(keys[key]), Some(key));
        }
        let indices: Vec<u32> = (0..4).map(|_| slab.insert_with(|_| 0).index).collect();
        assert_eq!(indices, [3, 70, 150, 192]);
        for key in slab.keys() {
            if key.index != 70 {
                slab.remove(key);
            }
        }
        slab.give_back();
        assert_eq!(slab.blocks.len(), 2);
        let (key, _) = slab.at(70).unwrap();
        slab.remove(key);
        slab.give_back();
        assert_eq!((slab.blocks.len(), slab.len()), (0, 0));
        assert!(slab.get_mut(keys[0]).is_none() && slab.at(70).is_none());
        let again = slab.insert_with(|_| 7);
        assert!(again.index == 0 && !keys.contains(&again), "{again:?}");
    }

    #[test]
    fn keys_lists_exactly_what_is_there() {
        let mut slab = Slab::default();
        let keys: Vec<Key> = (0..5).map(|n| slab.insert_with(|_| n)).collect();
        slab.remove(keys[1]);
        slab.remove(keys[3]);
        assert_eq!(slab.keys(), [keys[0], keys[2], keys[4]]);
        assert_eq!(slab.len(), 3);
    }
}
