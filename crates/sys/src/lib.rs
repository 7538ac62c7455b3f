//! Every system call that needs `unsafe` or care, made safe.
#![deny(unsafe_code)]
