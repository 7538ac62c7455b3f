//! A small binary codec for rows that exist a million times: varints and length-prefixed bytes, in a fixed order.

use rbuild_digest::Digest;

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Encoder(pub(crate) Vec<u8>);

impl Encoder {
    pub(crate) fn number(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn digest(&mut self, value: &Digest) -> &mut Self {
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    /// A flag, then the digest if there is one.
    pub(crate) fn maybe_digest(&mut self, value: Option<&Digest>) -> &mut Self {
        self.0.push(u8::from(value.is_some()));
        if let Some(digest) = value {
            self.digest(digest);
        }
        self
    }
}

/// Takes values off a buffer; `None` as soon as it does not hold what is asked for.
#[derive(Debug)]
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A number that counts things of at least one byte each: never more than there are bytes left.
    pub(crate) fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|count| *count <= self.0.len())
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.count()?;
        self.take(count)
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    pub(crate) fn digest(&mut self) -> Option<Digest> {
        self.take(32)?.try_into().ok().map(Digest::from_bytes)
    }

    pub(crate) fn maybe_digest(&mut self) -> Option<Option<Digest>> {
        match self.take(1)? {
            [0] => Some(None),
            [1] => self.digest().map(Some),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(number in any::<u64>(), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let digest = Digest::of(&bytes);
            let mut out = Encoder::default();
            out.number(number).bytes(&bytes).maybe_digest(Some(&digest)).maybe_digest(None);
            let mut input = Decoder(&out.0);
            prop_assert_eq!(input.number(), Some(number));
            prop_assert_eq!(input.bytes(), Some(&bytes[..]));
            prop_assert_eq!(input.maybe_digest(), Some(Some(digest)));
            prop_assert_eq!(input.maybe_digest(), Some(None));
            prop_assert!(input.0.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut input = Decoder(&bytes);
            while input.bytes().is_some() {}
            let mut input = Decoder(&bytes);
            while input.number().is_some() {}
        }
    }
}
