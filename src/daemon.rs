//! Threads, bounded queues, counters, shutdown: the only file that names a thread or a channel.
