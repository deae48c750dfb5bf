//! Shows diagnostics as rustc shows its own.
