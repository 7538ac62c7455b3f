//! Progress as text.
