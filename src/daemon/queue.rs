//! A bounded queue between threads that never grows: full, it drops something or makes the sender wait.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub struct Queue<T> {
    inner: Mutex<Inner<T>>,
    capacity: usize,
    filled: Condvar,
    freed: Condvar,
}

struct Inner<T> {
    items: VecDeque<T>,
    closed: bool,
}

/// What a receiver finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Popped<T> {
    Item(T),
    /// Nothing came in time.
    Empty,
    /// Nothing is left, and nothing will come.
    Closed,
}

impl<T> Queue<T> {
    pub fn new(capacity: usize) -> Queue<T> {
        assert!(capacity > 0, "a queue of 0 items");
        let inner = Inner { items: VecDeque::with_capacity(capacity), closed: false };
        Queue { inner: Mutex::new(inner), capacity, filled: Condvar::new(), freed: Condvar::new() }
    }

    /// Adds an item and returns what had to go for it: the oldest, or itself when the queue is closed.
    pub fn push(&self, item: T) -> Option<T> {
        let mut inner = self.lock();
        if inner.closed {
            return Some(item);
        }
        let oldest = if inner.items.len() == self.capacity { inner.items.pop_front() } else { None };
        inner.items.push_back(item);
        self.filled.notify_one();
        oldest
    }

    /// Adds an item; where the queue is full, `make_room` removes at least one first. A closed queue takes nothing.
    pub fn push_making_room(&self, item: T, mut make_room: impl FnMut(&mut VecDeque<T>)) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        while inner.items.len() >= self.capacity {
            make_room(&mut inner.items);
        }
        inner.items.push_back(item);
        self.filled.notify_one();
    }

    /// Adds an item when there is room; a closed queue takes nothing and returns it.
    pub fn push_wait(&self, item: T) -> Option<T> {
        let mut item = Some(item);
        while let Some(waiting) = item.take() {
            item = self.push_within(waiting, Duration::from_secs(1));
            if item.is_some() && self.lock().closed {
                break;
            }
        }
        item
    }

    /// Adds an item when there is room within some time, or returns it.
    pub fn push_within(&self, item: T, wait: Duration) -> Option<T> {
        let inner = self.lock();
        let full = |inner: &mut Inner<T>| inner.items.len() == self.capacity && !inner.closed;
        let (mut inner, _) =
            self.freed.wait_timeout_while(inner, wait, full).unwrap_or_else(PoisonError::into_inner);
        if inner.closed || inner.items.len() == self.capacity {
            return Some(item);
        }
        inner.items.push_back(item);
        self.filled.notify_one();
        None
    }

    pub fn pop(&self, wait: Duration) -> Popped<T> {
        let inner = self.lock();
        let (mut inner, _) = self
            .filled
            .wait_timeout_while(inner, wait, |inner| inner.items.is_empty() && !inner.closed)
            .unwrap_or_else(PoisonError::into_inner);
        match inner.items.pop_front() {
            Some(item) => {
                self.freed.notify_one();
                Popped::Item(item)
            }
            None if inner.closed => Popped::Closed,
            None => Popped::Empty,
        }
    }

    /// Hands every item over, and keeps those that come back.
    pub fn sift(&self, mut keep: impl FnMut(T) -> Option<T>) {
        let mut inner = self.lock();
        for _ in 0..inner.items.len() {
            let kept = inner.items.pop_front().and_then(&mut keep);
            inner.items.extend(kept);
        }
        self.freed.notify_all();
    }

    /// What is in it can still be taken; nothing more goes in.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.freed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn full_it_drops_the_oldest() {
        let queue = Queue::new(2);
        assert_eq!([queue.push(1), queue.push(2), queue.push(3)], [None, None, Some(1)]);
        assert_eq!(
            [queue.pop(NOW), queue.pop(NOW), queue.pop(NOW)],
            [Popped::Item(2), Popped::Item(3), Popped::Empty]
        );
    }

    #[test]
    fn closed_it_gives_what_it_has_and_takes_no_more() {
        let queue = Queue::new(2);
        queue.push(1);
        queue.close();
        assert_eq!([queue.push(2), queue.push_wait(3)], [Some(2), Some(3)]);
        assert_eq!([queue.pop(NOW), queue.pop(NOW)], [Popped::Item(1), Popped::Closed]);
    }

    #[test]
    fn a_sender_that_waits_loses_nothing() {
        let queue = Arc::new(Queue::new(1));
        let sender = Arc::clone(&queue);
        let thread = std::thread::spawn(move || {
            for i in 0..1_000 {
                sender.push_wait(i);
            }
            sender.close();
        });
        let mut next = 0;
        while let Popped::Item(item) = queue.pop(Duration::from_secs(10)) {
            assert_eq!(item, next);
            next += 1;
        }
        thread.join().unwrap();
        assert_eq!(next, 1_000);
    }
}
