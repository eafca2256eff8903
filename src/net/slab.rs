//! Where a worker keeps its connections: numbered places that are used again.
//!
//! A place that is used again gets a new generation, so that an event that was meant for the
//! connection that stood there before finds nobody, instead of waking a stranger.

/// The number of a place together with its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The place.
    pub index: u32,
    /// How often the place had been given away before.
    pub generation: u32,
}

/// Values in numbered places.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there is no value.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts the value that `make` builds from its key into a free place.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                generation: 0,
                value: None,
            });
            u32::try_from(self.places.len() - 1)
                .expect("descriptors, and so connections, fit 31 bits")
        });
        let place = &mut self.places[index as usize];
        let key = Key {
            index,
            generation: place.generation,
        };
        place.value = Some(make(key));
        key
    }

    /// The value with this key, unless it has gone.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation == key.generation {
            place.value.as_mut()
        } else {
            None
        }
    }

    /// The value that stands in this place now, with its key.
    pub(crate) fn at(&self, index: u32) -> Option<(Key, &T)> {
        let place = self.places.get(index as usize)?;
        let key = Key {
            index,
            generation: place.generation,
        };
        place.value.as_ref().map(|value| (key, value))
    }

    /// Takes the value out; its place is free and its key is void.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        let value = place.value.take()?;
        // 31 bits: the top bit of a token tells clients from backends (see net/poller.rs).
        place.generation = (place.generation + 1) & 0x7fff_ffff;
        self.free.push(key.index);
        Some(value)
    }

    /// The keys of all values, for what must be done to each of them.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let occupied = |(place, index): (&Place<T>, u32)| {
            place.value.as_ref().map(|_| Key {
                index,
                generation: place.generation,
            })
        };
        self.places.iter().zip(0..).filter_map(occupied).collect()
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
    fn keys_lists_exactly_what_is_there() {
        let mut slab = Slab::default();
        let keys: Vec<Key> = (0..5).map(|n| slab.insert_with(|_| n)).collect();
        slab.remove(keys[1]);
        slab.remove(keys[3]);
        assert_eq!(slab.keys(), [keys[0], keys[2], keys[4]]);
        assert_eq!(slab.len(), 3);
    }
}
