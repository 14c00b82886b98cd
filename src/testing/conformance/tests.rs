use super::*;
use crate::progress::Context;
use crate::tar::{Limits, Reader};
use crate::testing::layer::LayerEntry;
use crate::testing::model;

/// Model and literals were written apart; each proves the other.
#[test]
fn the_model_gives_what_the_literals_say() {
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| case.layers.iter().all(Layer::is_plain)) {
        let lines = match (model::fold(&case.layers), &case.expected) {
            (Ok(tree), Expected::Tree(expected)) => expected.difference(&tree),
            (Ok(tree), Expected::Invalid) => vec![format!("the model accepts it:\n{tree:?}")],
            (Err(invalid), Expected::Tree(_)) => vec![format!("the model refuses it: {invalid}")],
            (Err(invalid), Expected::Invalid) => {
                let below = case.layers.split_last().map_or(Ok(()), |(_, below)| model::fold(below).map(drop));
                match below {
                    Ok(()) if !invalid.contradictory => Vec::new(),
                    Ok(()) => vec!["the layer contradicts itself".to_owned()],
                    Err(invalid) => vec![format!("a layer below is invalid: {invalid}")],
                }
            }
        };
        if !lines.is_empty() {
            wrong.push(format!("{} {}\n  {:?}\n  {}", case.rule, case.name, case.layers, lines.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// How the tar reader understands a layer, in the form of its other reading.
fn read(layer: &Layer) -> Result<Vec<LayerEntry>> {
    let (cx, bytes) = (Context::default(), layer.tar());
    let mut reader = Reader::new(bytes.as_slice(), Limits::default(), &cx);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut content = Vec::new();
        while let Some(chunk) = reader.chunk()? {
            content.resize(usize::try_from(chunk.offset).unwrap(), 0);
            content.extend_from_slice(chunk.data);
        }
        entries.push(LayerEntry { entry, content });
    }
    Ok(entries)
}

#[test]
fn the_tar_reader_understands_the_layers_as_the_literals_do() {
    let layers = cases().into_iter().flat_map(|case| case.layers).filter(Layer::is_plain);
    for layer in layers {
        match (layer.entries(), read(&layer)) {
            (Ok(mine), Ok(its)) => assert_eq!(mine, its, "{layer:?}"),
            (Err(_), Err(error)) => assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{layer:?}"),
            (mine, its) => panic!("{layer:?}:\nliteral: {mine:?}\nreader: {its:?}"),
        }
    }
}

#[test]
fn names_are_unique_and_the_kit_is_large() {
    let cases = cases();
    let names: std::collections::BTreeSet<_> = cases.iter().map(|case| (case.rule, case.name)).collect();
    assert_eq!(names.len(), cases.len());
    println!("{} cases", cases.len());
    assert!(cases.len() >= 300, "{}", cases.len());
}

#[test]
fn the_kit_finds_a_wrong_unpacker() {
    let nothing = conformance(Means::ROOT, |_, _| Ok(()));
    assert!(nothing.failures.len() > nothing.ran / 2, "{nothing}");
    assert!(conformance(Means::USER_NAMESPACE, |_, _| Ok(())).passed_over.len() > 5);
}
