//! See the function that it calls.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rbuild_session::fuzzing::batch(data));
