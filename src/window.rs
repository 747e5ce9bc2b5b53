//! Readings to windows: the stretch of time that one inference sees, from rings that are sized at start.
//!
//! Units: `_ns` on the capture clock; nothing here asks what time it is.
//! Limits: `window_ms` of sound and the frames on the window's grid; a window is at most 30 s, the audio tower's reach.
