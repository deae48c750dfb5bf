//! The JSON Schema that editors complete and check specs with.
