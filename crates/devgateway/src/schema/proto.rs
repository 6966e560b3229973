//! Protobuf sources, compiled (controlplane §3.8).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use protox::prost_reflect::prost_types::FileDescriptorProto;

use super::edition::in_proto2;
use super::scan::{Scan, position, scan};
use super::{Kind, Schema, sha256};
use crate::refusal::cut;

/// Far more than one service imports.
const FILES_MAX: usize = 1_000;
/// Of a fault's text, which may quote the source.
const TEXT_MAX: usize = 1_024;

/// Compiles `source` under the virtual name `<namespace>.proto`, with `imports` laid over it.
///
/// An import whose key is that very name replaces the source: the gateway serves the wrong file then, and so
/// does this one (C-028).
pub(crate) fn compile(
    namespace: &str,
    source: &[u8],
    imports: &BTreeMap<String, bytes::Bytes>,
) -> Result<Schema, String> {
    let entry = format!("{}.proto", if namespace.is_empty() { "entry" } else { namespace });
    let failed = |text: &str| format!("compile {entry}: {}", cut(text, TEXT_MAX));
    let mut files: BTreeMap<&str, &[u8]> = BTreeMap::from([(entry.as_str(), source)]);
    files.extend(imports.iter().map(|(name, bytes)| (name.as_str(), bytes.as_ref())));
    let reached = reach(&entry, &files).map_err(|text| failed(&text))?;

    let order = leaves_first(&entry, &reached).map_err(|text| failed(&text))?;
    let sources: Arc<BTreeMap<String, Source>> = Arc::new(reached);
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources(sources.clone()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    for name in order {
        if let Err(error) = compiler.open_file(&name) {
            return Err(failed(&explain(&error, &sources, &name)));
        }
    }
    let compiled = compiler.file_descriptor_set();
    let entry_file = compiled.file.iter().find(|file| file.name() == entry);

    let mut schema = Schema::new(Kind::Proto, hash(&entry, &sources), None);
    if entry_file.is_some_and(|file| unary_services(file) > 1) {
        schema.unbuildable = Some(format!(
            "runtime render: {namespace}: version sub-group holds two services with unary methods; use one \
             binding for each service"
        ));
    }
    Ok(schema)
}

/// A file that the entry reaches.
#[derive(Debug)]
struct Source {
    text: String,
    scan: Scan,
    /// What the compiler reads instead: it knows no editions.
    translated: Option<String>,
}

/// The entry and what it imports, directly or not, among `files`.
fn reach(entry: &str, files: &BTreeMap<&str, &[u8]>) -> Result<BTreeMap<String, Source>, String> {
    let mut reached = BTreeMap::new();
    let mut seen = BTreeSet::from([entry.to_owned()]);
    let mut next = vec![entry.to_owned()];
    while let Some(name) = next.pop() {
        let Some(bytes) = files.get(name.as_str()) else { continue };
        if reached.len() >= FILES_MAX {
            return Err(format!("{name}: more than {FILES_MAX} files are imported"));
        }
        let text = str::from_utf8(bytes).map_err(|error| {
            let (line, column) = position(
                bytes
                    .get(..error.valid_up_to())
                    .and_then(|good| str::from_utf8(good).ok())
                    .unwrap_or_default(),
                error.valid_up_to(),
            );
            format!("{name}:{line}:{column}: source is not UTF-8")
        })?;
        let scan = scan(text).ok_or_else(|| format!("{name}: nested too deeply"))?;
        let unseen = scan.imports.iter().filter(|import| seen.insert(import.name.clone()));
        next.extend(unseen.map(|import| import.name.clone()));
        let translated = scan.edition.map(|edition| in_proto2(text, edition)).transpose();
        let translated = translated.map_err(|fault| format!("{name}:{fault}"))?;
        reached.insert(name, Source { text: text.to_owned(), scan, translated });
    }
    Ok(reached)
}

/// Each file after those that it imports, the entry last.
///
/// The compiler calls itself for an import that it has not read: in this order there is none, so that no chain
/// of imports is too long for its stack.
fn leaves_first(entry: &str, sources: &BTreeMap<String, Source>) -> Result<Vec<String>, String> {
    let mut order = Vec::with_capacity(sources.len());
    let mut done = BTreeSet::new();
    // What is being read, and how many of its imports were looked at.
    let mut path = vec![(entry, 0)];
    let mut on_path = BTreeSet::from([entry]);
    while let Some((name, looked)) = path.last_mut() {
        let imports = sources.get(*name).map(|source| source.scan.imports.as_slice()).unwrap_or_default();
        let Some(import) = imports.get(*looked) else {
            order.push((*name).to_owned());
            done.insert(*name);
            on_path.remove(*name);
            path.pop();
            continue;
        };
        *looked += 1;
        let import = import.name.as_str();
        if on_path.contains(import) {
            return Err(format!("{name}: cycle found in imports: {name} -> {import}"));
        }
        if sources.contains_key(import) && !done.contains(import) {
            path.push((import, 0));
            on_path.insert(import);
        }
    }
    Ok(order)
}

/// SHA-256 over the entry's name and bytes, then those of the imports in the order of their keys, each with its
/// length before it.
///
/// Not the value that a real gateway shows, which hashes compiled descriptors; it changes with the same edits,
/// and with a few more that change no descriptor (controlplane §5).
fn hash(entry: &str, sources: &BTreeMap<String, Source>) -> [u8; 32] {
    let entry = sources.get_key_value(entry);
    let imports = sources.iter().filter(|(name, _)| entry.is_none_or(|(entry, _)| entry != *name));
    let parts: Vec<([u8; 8], &[u8])> = entry
        .into_iter()
        .chain(imports)
        .flat_map(|(name, source)| [name.as_bytes(), source.text.as_bytes()])
        .map(|part| (u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes(), part))
        .collect();
    sha256(parts.iter().flat_map(|(length, part)| [length.as_slice(), part]))
}

/// Hands the compiler the files of the request.
struct Sources(Arc<BTreeMap<String, Source>>);

impl FileResolver for Sources {
    fn resolve_path(&self, path: &Path) -> Option<String> {
        path.to_str().map(str::to_owned)
    }

    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.get(name) {
            Some(source) => File::from_source(name, source.translated.as_ref().unwrap_or(&source.text)),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// `file:line:column: what`, as the gateway's own compiler words the two most common faults.
fn explain(error: &protox::Error, sources: &BTreeMap<String, Source>, entry: &str) -> String {
    let file = error.file().unwrap_or(entry);
    if error.is_file_not_found() {
        let is_missing =
            |name: &str| !sources.contains_key(name) && GoogleFileResolver::new().open_file(name).is_err();
        let imports = sources.get(file).map(|source| source.scan.imports.as_slice()).unwrap_or_default();
        return match imports.iter().find(|import| is_missing(&import.name)) {
            Some(import) => {
                format!("{file}:{}:{}: proto import not found: {}", import.line, import.column, import.name)
            }
            None => format!("{file}: proto import not found"),
        };
    }
    // `Debug` of this type is `file:line:column: message`, without the source around it.
    let full = format!("{error:?}");
    let message = error.to_string();
    let place = full.strip_suffix(&message).unwrap_or_default().trim_end_matches([' ', ':']);
    let place = if place.is_empty() { file } else { place };
    if !error.is_parse() {
        return format!("{place}: {message}");
    }
    match message.split_once("but found '") {
        Some((_, found)) => {
            format!(
                "{place}: syntax error: unexpected {}",
                sort_of(found.strip_suffix('\'').unwrap_or(found))
            )
        }
        None if message.ends_with("reached end of file") => {
            format!("{place}: syntax error: unexpected end of file")
        }
        None => format!("{place}: syntax error: {message}"),
    }
}

/// What sort of token stands where none may.
fn sort_of(token: &str) -> String {
    match token.chars().next() {
        Some(c) if c.is_alphabetic() || c == '_' => "identifier".into(),
        Some(c) if c.is_ascii_digit() && token.contains(['.', 'e', 'E']) => "float literal".into(),
        Some(c) if c.is_ascii_digit() => "int literal".into(),
        Some('"' | '\'') => "string literal".into(),
        _ => format!("'{token}'"),
    }
}

fn unary_services(file: &FileDescriptorProto) -> usize {
    let is_unary = |method: &&protox::prost_reflect::prost_types::MethodDescriptorProto| {
        !method.client_streaming() && !method.server_streaming()
    };
    file.service.iter().filter(|service| service.method.iter().any(|method| is_unary(&method))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: &str = "syntax = \"proto3\"; package p; service S { rpc X(M) returns (M); } message M {}";

    fn compiled(source: &str, imports: &[(&str, &str)]) -> Result<Schema, String> {
        let imports = imports
            .iter()
            .map(|(name, text)| ((*name).to_owned(), bytes::Bytes::copy_from_slice(text.as_bytes())))
            .collect();
        compile("x", source.as_bytes(), &imports)
    }

    #[test]
    fn faults_name_the_file_the_place_and_the_sort_of_fault() {
        for (source, imports, text) in [
            ("nonsense", &[][..], "compile x.proto: x.proto:1:1: syntax error: unexpected identifier"),
            (
                "syntax=\"proto3\"; import \"a.proto\"; package p;",
                &[],
                "compile x.proto: x.proto:1:25: proto import not found: a.proto",
            ),
            (
                "syntax=\"proto3\";\nimport \"a.proto\";",
                &[("a.proto", "syntax=\"proto3\";\n\nimport \"b.proto\";")],
                "compile x.proto: a.proto:3:8: proto import not found: b.proto",
            ),
            (
                "syntax = \"proto3\"; message M { ; 7 }",
                &[],
                "compile x.proto: x.proto:1:34: syntax error: unexpected int literal",
            ),
        ] {
            assert_eq!(compiled(source, imports).expect_err(source), text);
        }
        let error = compiled("syntax = \"proto3\"; message M { N n = 1; }", &[]).expect_err("N is not there");
        assert!(error.starts_with("compile x.proto: x.proto:1:"), "{error}");
        let error = compiled("syntax = \"proto3\"; message M {", &[]).expect_err("it ends early");
        assert!(error.ends_with("unexpected end of file"), "{error}");
    }

    #[test]
    fn every_syntax_that_a_gateway_compiles_compiles() {
        let proto2 = "syntax = \"proto2\"; message M { optional group G = 1 { required int32 a = 2; } }";
        let edition = "// e\nedition = \"2023\"; package p; option features.field_presence = IMPLICIT; \
                       service S { rpc X(M) returns (M) { option deprecated = true; } } \
                       enum E { option features.enum_type = CLOSED; A = 1; } \
                       message M { reserved old; string a = 1 [default = \"x\"]; repeated N n = 2; E e = 3; \
                       oneof o { N b = 4 [features.message_encoding = DELIMITED]; } map<string, M> m = 5; \
                       extensions 100 to max; } message N {} extend M { string x = 100; }";
        let streams = "syntax = \"proto3\"; service S { rpc X(stream M) returns (stream M); } service E {} message M {}";
        for source in [
            P,
            proto2,
            edition,
            streams,
            "message M {}",
            "",
            "syntax = \"proto3\"; message M { map<string, M> m = 1; }",
        ] {
            assert!(compiled(source, &[]).is_ok(), "{source}: {:?}", compiled(source, &[]));
        }
        // Each beside the other, and what an edition has not.
        let old = "syntax = \"proto3\"; import \"e.proto\"; message M { p.E e = 1; }";
        let open = "edition = \"2023\"; package p; enum E { A = 0; }";
        assert!(compiled(old, &[("e.proto", open)]).is_ok());
        let later = "edition = \"2024\"; message M {}";
        let labelled = "edition = \"2023\"; message M { optional string a = 1; }";
        for (source, place) in
            [(later, "compile x.proto: x.proto:1:"), (labelled, "compile x.proto: x.proto:1:31: ")]
        {
            let refused = compiled(source, &[]).expect_err(source);
            assert!(refused.starts_with(place), "{refused}");
        }
    }

    #[test]
    fn a_long_chain_of_imports_is_compiled_or_refused_but_never_overflows() {
        let chain = |length: usize| -> Vec<(String, String)> {
            (0..length)
                .map(|at| {
                    (format!("f{at}.proto"), format!("syntax = \"proto3\"; import \"f{}.proto\";", at + 1))
                })
                .chain([(format!("f{length}.proto"), "syntax = \"proto3\";".to_owned())])
                .collect()
        };
        let compile_chain = |length: usize| {
            let chain = chain(length);
            let imports: Vec<_> = chain.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            compiled("syntax = \"proto3\"; import \"f0.proto\";", &imports)
        };
        assert!(compile_chain(900).is_ok());
        assert!(compile_chain(1_100).is_err());
        let cycle =
            compiled("syntax = \"proto3\"; import \"a.proto\";", &[("a.proto", "import \"x.proto\";")]);
        assert!(cycle.is_err());
    }
}
