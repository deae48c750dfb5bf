//! Specs from other systems' configs.
