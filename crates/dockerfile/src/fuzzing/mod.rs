//! What fuzz targets call: each function takes any bytes and panics if a claim about the crate does not hold.
//! Compiled for tests, which replay the kept inputs, and for `tests/fuzz` only.

mod dockerfile;
mod glob_model;
mod heredoc;
mod mount;
#[cfg(test)]
#[path = "../../../../tests/fuzz/src/replay.rs"]
mod replay;
mod word_model;
mod words;

pub use dockerfile::dockerfile;
pub use heredoc::heredoc;
pub use mount::mount;
pub use words::words;

/// The parts of an input that are separated by zero bytes; the first is there always.
fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::replay::corpus;

    #[test]
    fn kept_inputs_of_dockerfile_hold() {
        corpus("dockerfile").iter().for_each(|input| super::dockerfile(input));
    }

    #[test]
    fn kept_inputs_of_heredoc_hold() {
        corpus("heredoc").iter().for_each(|input| super::heredoc(input));
    }

    #[test]
    fn kept_inputs_of_mount_hold() {
        corpus("mount").iter().for_each(|input| super::mount(input));
    }

    #[test]
    fn an_empty_from_takes_back_an_earlier_one() {
        super::mount(b"from=a,from=");
        super::mount(b"type=cache,from=a,from=,target=/c");
    }

    #[test]
    fn kept_inputs_of_words_hold() {
        corpus("words").iter().for_each(|input| super::words(input));
    }
}
