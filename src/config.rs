//! One TOML file, board profile and site: every limit of the daemon in one struct, unknown keys refused.
