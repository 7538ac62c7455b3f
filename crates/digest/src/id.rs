use rand::Rng;

/// Upstream's ids have 25 characters of base 36: about 129 bits, so they cannot be guessed.
const ID_LENGTH: usize = 25;
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A fresh random id of 25 lower-case base-36 characters (build refs, sessions, snapshots).
pub fn random_id() -> String {
    let mut rng = rand::rng();
    (0..ID_LENGTH).map(|_| ALPHABET[rng.random_range(0..ALPHABET.len())] as char).collect()
}

/// Whether an id that came from outside is safe to use as a name: 1 to 128 of `[A-Za-z0-9_.-]`, not
/// beginning with a dot or a dash. Everything else could act as a path or an option somewhere.
pub fn is_safe_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && !id.starts_with(['.', '-'])
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_safe_and_differ() {
        let (a, b) = (random_id(), random_id());
        assert!(is_safe_id(&a) && a.len() == 25);
        assert_ne!(a, b);
    }

    #[test]
    fn paths_are_not_ids() {
        for bad in ["", ".", "..", "../x", "a/b", "a\0b", "-x", "é"] {
            assert!(!is_safe_id(bad), "{bad:?}");
        }
    }
}
