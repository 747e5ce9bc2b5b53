//! Scores, one set per window, to events: few, late enough to be true, early enough to matter.
