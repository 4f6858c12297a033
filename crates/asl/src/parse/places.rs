//! Where Maps read their items and write their results: what the resources are told, and how that is
//! to be read. Resources that aren't known here are whoever runs the machine's business.

use serde_json::Value;

use super::Builder;
use super::fields::Fields;
use crate::diagnostic::{code, nearest};
use crate::resource::ObjectAction;

/// Transformations of items as they are read.
const TRANSFORMATIONS: [&str; 2] = ["NONE", "LOAD_AND_FLATTEN"];

/// Kinds of manifests.
const MANIFESTS: [&str; 2] = ["S3_INVENTORY", "ATHENA_DATA"];

/// What a resource is told: what it must be, and what it may be besides.
type Told = (&'static [&'static str], &'static [&'static str]);

impl Builder {
    /// Checks what an item reader is told.
    pub(super) fn reader_place(&mut self, reader: &Fields<'_>, arguments: &str, resource: &str) {
        let told: Told = match (resource, ObjectAction::parse(resource)) {
            (_, Some(ObjectAction::Get)) => (&["Bucket", "Key"], &["VersionId"]),
            (_, Some(ObjectAction::List)) => (&["Bucket"], &["Prefix"]),
            (_, Some(ObjectAction::Put)) => {
                let message = "items are read with s3:getObject or s3:listObjectsV2";
                return self.error(code::RESOURCE, &reader.at("Resource"), message);
            }
            ("file", None) => (&["Path"], &[]),
            ("url", None) => (&["Url"], &[]),
            _ => return,
        };
        self.told(reader, arguments, told);
    }

    /// Checks what a result writer is told.
    pub(super) fn writer_place(&mut self, writer: &Fields<'_>, arguments: &str, resource: &str) {
        let told: Told = match (resource, ObjectAction::parse(resource)) {
            (_, Some(ObjectAction::Put)) => (&["Bucket"], &["Prefix"]),
            (_, Some(ObjectAction::Get | ObjectAction::List)) => {
                let message = "results are written with s3:putObject";
                return self.error(code::RESOURCE, &writer.at("Resource"), message);
            }
            ("file", None) => (&["Path"], &[]),
            _ => return,
        };
        self.told(writer, arguments, told);
    }

    fn told(&mut self, owner: &Fields<'_>, arguments: &str, (needed, optional): Told) {
        let place = owner.at(arguments);
        let Some(value) = owner.map.get(arguments) else {
            let message = format!(
                "{} belong in '{arguments}', which is missing",
                needed.join(" and ")
            );
            return self.warn(code::SCHEMA, owner.place, message, None);
        };
        // An expression gives it as a whole.
        let Value::Object(map) = value else {
            return;
        };
        let fields = Fields { map, place: &place };
        let given = |name: &str| fields.has(name) || fields.has(&format!("{name}.$"));
        for name in needed.iter().filter(|name| !given(name)) {
            self.missing(&fields, name);
        }
        for key in map.keys() {
            let name = key.strip_suffix(".$").unwrap_or(key);
            let known = || needed.iter().chain(optional).copied();
            if known().all(|known| known != name) {
                let message = format!("'{key}' says nothing here");
                let nearest = nearest(name, known());
                let suggestion = nearest.map(|nearest| format!("did you mean '{nearest}'?"));
                self.warn(code::NO_EFFECT, &fields.at(key), message, suggestion);
            }
        }
    }

    /// Whether not the objects that a reader lists are the items, but what is in them.
    pub(super) fn loads(&mut self, config: &Fields<'_>, resource: &str) -> bool {
        let lists = ObjectAction::parse(resource) == Some(ObjectAction::List);
        let transformation = self.string(config, "Transformation");
        if let Some(given) = transformation
            && !TRANSFORMATIONS.contains(&given)
        {
            let message = format!("the transformation is {}", TRANSFORMATIONS.join(" or "));
            let nearest = nearest(given, TRANSFORMATIONS);
            self.suggest(code::SCHEMA, &config.at("Transformation"), message, nearest);
        }
        let loads = transformation == Some("LOAD_AND_FLATTEN");
        let without_effect = match (lists, loads) {
            (true, false) => "InputType",
            (false, true) => "Transformation",
            _ => return loads && lists,
        };
        if config.has(without_effect) {
            let message = match lists {
                true => "listed objects are the items, unless Transformation is LOAD_AND_FLATTEN",
                false => "only with s3:listObjectsV2 there is something to load",
            };
            self.warn(code::NO_EFFECT, &config.at(without_effect), message, None);
        }
        false
    }

    /// Whether a manifest is one of S3's inventory, and not of Athena's.
    pub(super) fn is_inventory(&mut self, config: &Fields<'_>) -> bool {
        let kind = self.string(config, "ManifestType");
        if let Some(given) = kind
            && !MANIFESTS.contains(&given)
        {
            let message = format!("the type of manifest is {}", MANIFESTS.join(" or "));
            let nearest = nearest(given, MANIFESTS);
            self.suggest(code::SCHEMA, &config.at("ManifestType"), message, nearest);
        }
        kind != Some("ATHENA_DATA")
    }
}
