//! Files that are made here, read back.
