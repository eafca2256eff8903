//! A few values, and the beginning of a text, in a fixed place: what does not fit is counted or
//! cut.

/// Up to `N` values in place, and a count of those beyond.
#[derive(Debug, Clone, Copy)]
pub(super) struct Few<T, const N: usize> {
    kept: [T; N],
    pub(super) length: u8,
    pub(super) more: u16,
}

impl<T: Copy + Default, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Few {
            kept: [T::default(); N],
            length: 0,
            more: 0,
        }
    }
}

impl<T: Copy, const N: usize> Few<T, N> {
    pub(super) fn push(&mut self, value: T) {
        match self.kept.get_mut(usize::from(self.length)) {
            Some(place) => {
                *place = value;
                self.length += 1;
            }
            None => self.more = self.more.saturating_add(1),
        }
    }

    /// Takes these in place of all; only the first `N`.
    pub(super) fn set(&mut self, values: &[T]) {
        let length = values.len().min(N);
        self.kept[..length].copy_from_slice(&values[..length]);
        self.length = u8::try_from(length).unwrap_or(0);
        self.more = 0;
    }

    pub(super) fn get(&self) -> (&[T], usize) {
        (
            &self.kept[..usize::from(self.length)],
            usize::from(self.more),
        )
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.kept[..usize::from(self.length)].iter_mut()
    }

    pub(super) fn clear(&mut self) {
        self.length = 0;
        self.more = 0;
    }
}

/// The first `N` bytes of a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brief<const N: usize> {
    bytes: [u8; N],
    pub(super) length: u8,
}

impl<const N: usize> Default for Brief<N> {
    fn default() -> Self {
        Brief {
            bytes: [0; N],
            length: 0,
        }
    }
}

impl<const N: usize> Brief<N> {
    pub(super) fn set(&mut self, bytes: &[u8]) {
        const { assert!(N <= 255, "the length is one byte") };
        let length = bytes.len().min(N);
        self.bytes[..length].copy_from_slice(&bytes[..length]);
        self.length = u8::try_from(length).unwrap_or(0);
    }

    pub(super) fn get(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}
