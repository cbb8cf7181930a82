//! What a file is that is no exported model, and what can be done with it: people have models in many formats.

use std::collections::BTreeMap;

/// What a file is, to end the sentence "it is ...", and what to do.
type Kind = (&'static str, &'static str);

const EXPORT_ITS_MODEL: &str =
    "export the PyTorch model that it was made from: `camflow export NAME` or `camflow export file.py:function`";
const EXPORT_WITH_NETWORK: &str = "export its network with it: `camflow export --arch LIBRARY:NAME --checkpoint FILE`, or `file.py:function` in place of `--arch`";
const GET_AGAIN: &str = "get the file again; `camflow export` writes models";
const UNPACK: &str = "unpack it first; `camflow export` writes models";

const CHECKPOINT: Kind = ("a checkpoint of PyTorch, weights without a network", EXPORT_WITH_NETWORK);
const TORCHSCRIPT: Kind = ("a TorchScript model, which camflow does not read", EXPORT_ITS_MODEL);

const OLDER_PROGRAM: Kind =
    ("a program that an older torch exported", "`camflow export FILE` makes a model of it, with a torch from 2.9 on");

/// What files begin with.
const BEGINNINGS: &[(&[u8], Kind)] = &[
    (
        b"version https://git-lfs",
        ("a Git LFS pointer and not the file itself", "`git lfs pull` fetches the file that it stands for"),
    ),
    (b"\x89HDF", ("an HDF5 file, such as Keras writes", EXPORT_ITS_MODEL)),
    (b"\x1f\x8b", ("compressed by gzip", UNPACK)),
    (b"BZh", ("compressed by bzip2", UNPACK)),
    (b"\xfd7zXZ", ("compressed by xz", UNPACK)),
    (b"\x28\xb5\x2f\xfd", ("compressed by Zstandard", UNPACK)),
    (b"GGUF", ("a GGUF file of llama.cpp", EXPORT_ITS_MODEL)),
    (b"\x93NUMPY", ("a NumPy array", EXPORT_ITS_MODEL)),
];

/// By the first bytes of the file; `None` where they say nothing.
pub(super) fn by_start(start: &[u8]) -> Option<Kind> {
    if let Some((_, kind)) = BEGINNINGS.iter().find(|(beginning, _)| start.starts_with(beginning)) {
        return Some(*kind);
    }
    let text = start.trim_ascii_start().to_ascii_lowercase();
    if [&b"<!doctype"[..], b"<html", b"<?xml", b"<head", b"<body"].iter().any(|tag| text.starts_with(tag)) {
        return Some(("an HTML page: the server sent a page to log in or of an error instead of the file", GET_AGAIN));
    }
    match start {
        // The number that torch.save began with before version 1.6, as Python's pickle has it.
        [0x80, 2, 0x8a, 0x0a, b'l', 0xfc, 0x9c, b'F', ..] => Some(CHECKPOINT),
        [0x80, 2..=5, ..] => {
            Some(("a Python pickle", "load it in a function that returns the nn.Module: `camflow export file.py:function`"))
        }
        // The length of a header in JSON, which begins there.
        [_, _, _, _, 0, 0, 0, 0, b'{', ..] => Some(("a file of weights (safetensors) without a network", EXPORT_WITH_NETWORK)),
        // The first fields of an ONNX model in protobuf: its version, then its producer or its graph.
        [0x08, 1..=31, 0x12 | 0x1a | 0x3a | 0x42, ..] => Some(("an ONNX model, which camflow does not read", EXPORT_ITS_MODEL)),
        _ => None,
    }
}

/// By the names of a zip archive's entries below the root folder; `None` where they may be those of `torch.export`.
pub(super) fn by_entries<T>(entries: &BTreeMap<String, T>) -> Option<Kind> {
    if entries.contains_key("archive_format") {
        return None;
    }
    if entries.contains_key("serialized_exported_program.json") {
        return Some(OLDER_PROGRAM);
    }
    if entries.contains_key("constants.pkl") || entries.keys().any(|name| name.starts_with("code/")) {
        return Some(TORCHSCRIPT);
    }
    if entries.contains_key("data.pkl") {
        return Some(CHECKPOINT);
    }
    let is_exported = entries.keys().any(|name| name.starts_with("models/") || name.starts_with("data/"));
    (!is_exported).then_some(("a zip archive of other files", UNPACK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_beginning() {
        for (start, what) in [
            (&b"version https://git-lfs.github.com/spec/v1\noid"[..], "Git LFS"),
            (b"\n<!DOCTYPE html><html>", "HTML"),
            (b"\x80\x02\x8a\nl\xfc\x9cF", "checkpoint"),
            (b"\x80\x04\x95\x10", "a Python pickle"),
            (b"\x58\x01\0\0\0\0\0\0{\"__metadata__\"", "safetensors"),
            (b"\x08\x09\x12\x07pytorch", "ONNX"),
            (b"\x1f\x8b\x08", "gzip"),
        ] {
            assert!(by_start(start).expect(what).0.contains(what), "{what}");
        }
        assert_eq!(by_start(b"just a text"), None);
        assert_eq!(by_start(b""), None);
    }

    #[test]
    fn a_zip_archive_is_known_by_its_entries() {
        let kind = |names: &[&str]| by_entries(&names.iter().map(|name| ((*name).to_owned(), ())).collect()).map(|kind| kind.0);
        assert!(kind(&["data.pkl", "data/0", "version"]).expect("kind").contains("checkpoint"));
        assert!(kind(&["data.pkl", "constants.pkl", "code/m.py"]).expect("kind").contains("TorchScript"));
        let older = ["serialized_exported_program.json", "serialized_state_dict.pt", "version"];
        assert!(kind(&older).expect("kind").contains("older torch"));
        assert!(kind(&["photo.jpg"]).expect("kind").contains("other files"));
        assert_eq!(kind(&["archive_format", "models/model.json", "data/weights/weight_0"]), None);
    }
}
