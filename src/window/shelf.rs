//! Pictures that wait in windows: kept as small as the model sees them, with the parts of them that show a face each.

use crate::{
    feature::image::Resizer,
    source::{Frame, Pool},
};
use zeroize::Zeroize;

/// Parts of a picture at most.
pub const PARTS_MAX: usize = 4;

/// A square of a picture that is shown by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Whose face it is: the number of a track, never 0.
    pub who: u16,
    pub left: u32,
    pub top: u32,
    pub side: u32,
}

#[derive(Debug)]
pub struct Picture {
    pub id: u64,
    pub frame: Frame,
    /// As small as the model sees it; its buffer is not the pool's.
    small: bool,
    /// Squares of it that are still to be cut, and those that are, as small as the model sees them.
    uncut: heapless::Vec<Part, PARTS_MAX>,
    pub parts: heapless::Vec<(u16, Frame), PARTS_MAX>,
}

impl Picture {
    pub fn new(id: u64, frame: Frame, parts: &[Part]) -> Picture {
        let uncut = parts.iter().take(PARTS_MAX).copied().collect();
        Picture { id, frame, small: false, uncut, parts: heapless::Vec::new() }
    }
}

/// Where buffers of pictures come from and go to.
#[derive(Debug)]
pub struct Shelf {
    pub pool: Pool,
    /// Makes pictures as small as the model sees them.
    fit: Option<Fit>,
}

#[derive(Debug)]
struct Fit {
    side: u32,
    resizer: Resizer,
    spare: Vec<Vec<u8>>,
    /// A square before it is made small; `None`: parts are not kept.
    square: Option<Vec<u8>>,
}

impl Drop for Shelf {
    fn drop(&mut self) {
        if let Some(fit) = &mut self.fit {
            fit.spare.zeroize();
            fit.square.zeroize();
        }
    }
}

impl Shelf {
    pub fn new(pool: Pool) -> Shelf {
        Shelf { pool, fit: None }
    }

    /// Makes pictures `side` pixels across and down from now on, `count` of them.
    pub fn fit_to(&mut self, side: usize, count: usize) {
        let spare = (0..count).map(|_| vec![0; side * side * 3]).collect();
        self.fit = Some(Fit { side: side as u32, resizer: Resizer::new(side), spare, square: None });
    }

    /// Keeps the parts of `count` pictures, where they are made small.
    pub fn keep_parts(&mut self, count: usize) {
        if let Some(fit) = &mut self.fit {
            let bytes = (fit.side * fit.side * 3) as usize;
            fit.spare.extend((0..count * PARTS_MAX).map(|_| vec![0; bytes]));
            fit.square = Some(Vec::new());
        }
    }

    pub fn take_back(&mut self, picture: Picture) {
        if let Some(fit) = &mut self.fit {
            fit.spare.extend(picture.parts.into_iter().map(|(_, part)| part.rgb));
        }
        match &mut self.fit {
            Some(fit) if picture.small => fit.spare.push(picture.frame.rgb),
            _ => self.pool.give_rgb(picture.frame.rgb),
        }
    }

    /// Makes a picture small that is not yet.
    pub fn settle(&mut self, picture: &mut Picture) {
        let Some(fit) = &mut self.fit else { return };
        fit.cut(picture);
        let Fit { side, resizer, spare, .. } = fit;
        let frame = &mut picture.frame;
        let bytes = (*side * *side * 3) as usize;
        if picture.small || frame.rgb.len() <= bytes {
            return;
        }
        let mut rgb = spare.pop().unwrap_or_else(|| vec![0; bytes]);
        resizer.resize(&frame.rgb, frame.height as usize, frame.width as usize, &mut rgb);
        self.pool.give_rgb(std::mem::replace(&mut frame.rgb, rgb));
        (frame.height, frame.width) = (*side, *side);
        picture.small = true;
    }
}

impl Fit {
    /// Cuts the parts of a picture; a square that does not lie in it is left out.
    fn cut(&mut self, picture: &mut Picture) {
        let Fit { side, resizer, spare, square: Some(square) } = self else { return };
        let Picture { frame, uncut, parts, .. } = picture;
        let inside = |part: &Part| {
            part.side > 0 && part.left + part.side <= frame.width && part.top + part.side <= frame.height
        };
        for part in uncut.iter().filter(|part| inside(part)) {
            let (across, length) = (frame.width as usize * 3, part.side as usize * 3);
            let first = part.top as usize * across + part.left as usize * 3;
            square.clear();
            for row in 0..part.side as usize {
                square.extend_from_slice(&frame.rgb[first + row * across..][..length]);
            }
            let mut rgb = spare.pop().unwrap_or_else(|| vec![0; (*side * *side * 3) as usize]);
            resizer.resize(square, part.side as usize, part.side as usize, &mut rgb);
            let small = Frame { captured_ns: frame.captured_ns, height: *side, width: *side, rgb };
            parts.push((part.who, small)).expect("there is room for as many as were to be cut");
        }
        uncut.clear();
    }
}
