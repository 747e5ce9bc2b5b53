//! Window to model input: images and log-mel; pure.
