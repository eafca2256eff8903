//! How a bounded buffer grows: in few steps, each four times the one before, and never beyond the
//! bound.
//!
//! A `Vec` that is pushed to doubles, whatever its bound: up to half of it stays unused, and each
//! step leaves a hole between the buffers of other connections.
//!
//! And how memory is given back after a load. glibc gives back to the kernel what is free at the
//! end of a thread's heap, so one small piece that stays keeps all memory before it. Two kinds of
//! pieces stay: those that live as long as their thread, and freed pieces that each thread caches
//! (up to 1032 bytes, seven of a size). So the first are made when the thread starts
//! ([`ITEMS_KEPT`]), and the cache is filled then too ([`fill_cache`]); what comes and goes with
//! connections is too large for the cache ([`FIRST_BYTES`]), and so are the texts of log lines: a
//! small piece that grows takes the next one from the heap and not from the cache, and leaves it
//! there. musl needs none of this, and takes no harm from it.

use std::hint::black_box;

/// What a thread's heap takes beside its contents: the cached pieces, and twice the end of it that
/// glibc keeps (128 KiB).
pub(crate) const HEAP_BYTES: usize = 320 * 1024;

/// What the allocator takes for `bytes` in use. musl has size classes, each up to a quarter larger
/// than the one before; glibc leaves gaps, as much as that in the worst of the tests.
pub(crate) fn allocated(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 4)
}

/// The first step.
pub(crate) const FIRST_BYTES: usize = 1088;

/// Sizes that a worker allocates for a moment, such as the text of an error: glibc has a cache for
/// each step.
const SMALL_BYTES: std::ops::RangeInclusive<usize> = 24..=520;
const SMALL_BYTES_STEP: usize = 16;

/// Pieces of a size that glibc keeps for each thread.
const CACHED_PIECES_MAX: usize = 7;

/// Freeing this much at once makes glibc merge free pieces and give back the end of its heap.
const MERGED_BYTES_MIN: usize = 64 * 1024;

/// Items for which a worker's lists have room from the start; longer ones give memory back when
/// they are empty.
pub(crate) const ITEMS_KEPT: usize = 256;

/// What a buffer may leave unused before its contents move to a smaller one.
const UNUSED_BYTES_MAX: usize = 4096;

/// Fills this thread's cache of small pieces from the front of its heap: pieces freed later go back
/// to the heap.
pub(crate) fn fill_cache() {
    let pieces: Vec<Vec<u8>> = SMALL_BYTES
        .step_by(SMALL_BYTES_STEP)
        .flat_map(|size| std::iter::repeat_n(size, CACHED_PIECES_MAX))
        .map(Vec::with_capacity)
        .collect();
    drop(black_box(pieces));
}

/// Makes the allocator merge free pieces.
pub(crate) fn merge_free() {
    drop(black_box(Vec::<u8>::with_capacity(MERGED_BYTES_MIN)));
}

/// Makes room in `buffer` for `more` items, of at most `max` in all.
pub(crate) fn make_room<T>(buffer: &mut Vec<T>, more: usize, max: usize) {
    let needed = buffer.len() + more;
    if needed > buffer.capacity() {
        let first = FIRST_BYTES / size_of::<T>();
        let step = (4 * buffer.capacity()).min(max).max(first);
        // Not by `reserve`: when glibc enlarges a piece in place, it cuts off a small one.
        let mut larger = Vec::with_capacity(step.max(needed));
        larger.append(buffer);
        *buffer = larger;
    }
}

/// Makes room in a list for one more item, by doubling.
pub(crate) fn make_room_in_list<T>(list: &mut Vec<T>) {
    make_room(list, 1, 2 * list.len());
}

/// A buffer of its own for `bytes`.
pub(crate) fn copy_of(bytes: &[u8]) -> Vec<u8> {
    let mut copy = Vec::new();
    make_room(&mut copy, bytes.len(), bytes.len());
    copy.extend_from_slice(bytes);
    copy
}

/// Whether a buffer of `capacity` bytes is too large for the `left` ones that are left in it.
pub(crate) fn is_too_large(capacity: usize, left: usize) -> bool {
    capacity - left > left.max(UNUSED_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_in_few_steps_and_never_beyond_its_bound() {
        let mut buffer: Vec<u8> = Vec::new();
        let mut steps = Vec::new();
        for _ in 0..16_384 {
            make_room(&mut buffer, 1, 16_384);
            if steps.last() != Some(&buffer.capacity()) {
                steps.push(buffer.capacity());
            }
            buffer.push(0);
        }
        assert_eq!(steps, [1088, 4352, 16_384]);
    }

    #[test]
    fn what_comes_at_once_has_a_buffer_of_its_size() {
        let mut buffer: Vec<u8> = Vec::new();
        make_room(&mut buffer, 5000, 16_384);
        assert_eq!(buffer.capacity(), 5000);
        assert_eq!(copy_of(&[1; 5000]).capacity(), 5000);
        assert_eq!(copy_of(&[1; 5]).capacity(), FIRST_BYTES);
    }

    #[test]
    fn a_buffer_is_too_large_when_most_of_it_is_unused() {
        assert!(is_too_large(100_000, 10) && is_too_large(100_000, 49_999));
        assert!(!is_too_large(100_000, 50_000) && !is_too_large(4096, 0));
    }
}
