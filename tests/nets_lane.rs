//! A net over stored inputs, for `tools/test cues`: `nets_lane NET.onnx OUTPUT=SIZE,... INPUT=DIMxDIM=FILE...` writes each output beside
//! the inputs as `OUTPUT.f32`. Files are f32, little-endian.

use mien::cues::{
    self, Task,
    net::{Net, Wants},
};
use std::{env, fs, path::Path};

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [file, outputs, inputs @ ..] = args.as_slice() else { panic!("see the head of this file") };
    let outputs: Vec<(&str, usize)> = outputs
        .split(',')
        .map(|output| output.split_once('=').map(|(name, size)| (name, size.parse().unwrap())).unwrap())
        .collect();
    let mut shapes: Vec<(&str, Vec<usize>)> = Vec::new();
    let mut values: Vec<Vec<f32>> = Vec::new();
    for input in inputs {
        let [name, shape, file] = input.splitn(3, '=').collect::<Vec<_>>().try_into().unwrap();
        shapes.push((name, shape.split('x').map(|dim| dim.parse().unwrap()).collect()));
        let bytes = fs::read(file).unwrap();
        values.push(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect());
    }
    let shapes: Vec<(&str, &[usize])> =
        shapes.iter().map(|(name, shape)| (*name, shape.as_slice())).collect();
    let wants = Wants { inputs: &shapes, outputs: &outputs };
    let settings = cues::Net { file: file.into(), ..cues::Net::default() };
    let net = Net::load(Task::FaceBox, &settings, &wants).unwrap();
    let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    let folder = Path::new(inputs[0].rsplit('=').next().unwrap()).parent().unwrap();
    net.run(&values, |said| {
        for ((name, _), values) in outputs.iter().zip(said) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            fs::write(folder.join(format!("{name}.f32")), bytes).unwrap();
        }
    })
    .unwrap();
}
