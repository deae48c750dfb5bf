//! The doors: every text ends as one tree, and the tree as one document.
