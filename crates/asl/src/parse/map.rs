//! Map states.

use serde_json::Value;

use super::fields::Fields;
use super::graph;
use super::template::Calls;
use super::{Builder, SECONDS_MAX};
use crate::diagnostic::{code, nearest};
use crate::machine::{Batcher, Distributed, Format, Kind, Map, Reader, Transformation, Writer};
use crate::template::Template;

const INPUT_TYPES: [&str; 5] = ["CSV", "JSON", "JSONL", "PARQUET", "MANIFEST"];
const LABEL_LENGTH_MAX: usize = 40;

impl Builder {
    pub(super) fn map(
        &mut self,
        fields: &Fields<'_>,
        is_jsonata: bool,
        siblings: &Fields<'_>,
    ) -> Option<Kind> {
        self.exclusive(fields, &["ItemProcessor", "Iterator"]);
        self.exclusive(fields, &["ItemSelector", "Parameters"]);
        let name = match fields.has("Iterator") {
            true => "Iterator",
            false => "ItemProcessor",
        };
        let Some(value) = fields.map.get(name) else {
            self.missing(fields, name);
            return None;
        };
        let place = fields.at(name);
        let processor = self.object(value, &place)?;
        let known = [
            "ProcessorConfig",
            "StartAt",
            "States",
            "Comment",
            "QueryLanguage",
        ];
        self.only(&processor, &known, "an item processor");
        let is_distributed = self.is_distributed(&processor);
        let scope = if is_distributed {
            // Outer variables are out of sight.
            let outer = std::mem::take(&mut self.outer_variables);
            let scope = self.scope(&processor);
            self.outer_variables = outer;
            scope
        } else {
            self.outer_variables.push(graph::variables(siblings.map));
            let scope = self.scope(&processor);
            self.outer_variables.pop();
            scope
        };
        let items = match is_jsonata {
            true => self.items(fields),
            false if fields.has("ItemsPath") => {
                let text = self.string(fields, "ItemsPath")?;
                self.computed(text, &fields.at("ItemsPath"), "ItemsPath", Calls::Forbidden)
            }
            false => None,
        };
        let selector = match fields.has("ItemSelector") {
            true => self.template_field(fields, "ItemSelector", is_jsonata),
            false if !is_jsonata => self.template_field(fields, "Parameters", false),
            false => None,
        };
        let range = (0.0, SECONDS_MAX);
        Some(Kind::Map(Box::new(Map {
            processor: scope,
            items,
            selector,
            concurrency_max: self.amount(fields, "MaxConcurrency", range, is_jsonata),
            distributed: self.distributed(fields, is_jsonata, is_distributed),
        })))
    }

    fn items(&mut self, fields: &Fields<'_>) -> Option<Template> {
        let value = fields.map.get("Items")?;
        let template = self.template_field(fields, "Items", true)?;
        if !matches!(value, Value::Array(_) | Value::Object(_))
            && !matches!(template, Template::Expression(_))
        {
            let message = "an array, an object or an expression is expected";
            self.error(code::SCHEMA, &fields.at("Items"), message);
        }
        Some(template)
    }

    fn is_distributed(&mut self, processor: &Fields<'_>) -> bool {
        let place = processor.at("ProcessorConfig");
        let Some(config) = processor.map.get("ProcessorConfig") else {
            return false;
        };
        let Some(config) = self.object(config, &place) else {
            return false;
        };
        self.only(
            &config,
            &["Mode", "ExecutionType"],
            "a processor's configuration",
        );
        let mode = self.string(&config, "Mode").unwrap_or("INLINE");
        if mode != "INLINE" && mode != "DISTRIBUTED" {
            let message = "the mode is \"INLINE\" or \"DISTRIBUTED\"";
            self.error(code::SCHEMA, &config.at("Mode"), message);
        }
        let execution = self.string(&config, "ExecutionType");
        if execution.is_some_and(|one| one != "STANDARD" && one != "EXPRESS") {
            let message = "the type of execution is \"STANDARD\" or \"EXPRESS\"";
            self.error(code::SCHEMA, &config.at("ExecutionType"), message);
        }
        match (mode, execution) {
            ("DISTRIBUTED", None) => self.missing(&config, "ExecutionType"),
            ("INLINE", Some(_)) => {
                let message = "only a distributed Map has a type of execution";
                self.warn(code::NO_EFFECT, &config.at("ExecutionType"), message, None);
            }
            _ => {}
        }
        mode == "DISTRIBUTED"
    }

    fn distributed(
        &mut self,
        fields: &Fields<'_>,
        is_jsonata: bool,
        is_distributed: bool,
    ) -> Option<Distributed> {
        if !is_distributed {
            for name in [
                "ItemReader",
                "ItemBatcher",
                "ResultWriter",
                "ToleratedFailureCount",
                "ToleratedFailureCountPath",
                "ToleratedFailurePercentage",
                "ToleratedFailurePercentagePath",
                "Label",
            ] {
                if fields.has(name) {
                    let message = format!("only a distributed Map has '{name}'");
                    self.error(code::SCHEMA, &fields.at(name), message);
                }
            }
            return None;
        }
        self.label(fields);
        let count = (0.0, f64::MAX);
        let percentage = (0.0, 100.0);
        Some(Distributed {
            tolerated_count: self.amount(fields, "ToleratedFailureCount", count, is_jsonata),
            tolerated_percentage: self.amount(
                fields,
                "ToleratedFailurePercentage",
                percentage,
                is_jsonata,
            ),
            batcher: self.batcher(fields, is_jsonata),
            reader: self.reader(fields, is_jsonata),
            writer: self.writer(fields, is_jsonata),
        })
    }

    fn label(&mut self, fields: &Fields<'_>) {
        let Some(label) = self.string(fields, "Label") else {
            return;
        };
        let place = fields.at("Label");
        let is_odd =
            |c: char| c.is_whitespace() || c.is_control() || "?*<>{}[]:;,\\|^~$#%&`\"".contains(c);
        let length = label.chars().count();
        if length == 0 || length > LABEL_LENGTH_MAX || label.contains(is_odd) {
            let message = format!("a label has 1 to {LABEL_LENGTH_MAX} plain characters");
            self.error(code::LABEL, &place, message);
        }
        if !self.labels.insert(label.to_owned()) {
            self.error(
                code::DUPLICATE_LABEL,
                &place,
                "the label is used by another state",
            );
        }
    }

    fn batcher(&mut self, fields: &Fields<'_>, is_jsonata: bool) -> Option<Batcher> {
        let place = fields.at("ItemBatcher");
        let batcher = self.object(fields.map.get("ItemBatcher")?, &place)?;
        let known: &[&str] = match is_jsonata {
            true => &["BatchInput", "MaxItemsPerBatch", "MaxInputBytesPerBatch"],
            false => &[
                "BatchInput",
                "MaxItemsPerBatch",
                "MaxItemsPerBatchPath",
                "MaxInputBytesPerBatch",
                "MaxInputBytesPerBatchPath",
            ],
        };
        self.only(&batcher, known, "an item batcher");
        let read = Batcher {
            input: self.template_field(&batcher, "BatchInput", is_jsonata),
            items_max: self.amount(&batcher, "MaxItemsPerBatch", (1.0, SECONDS_MAX), is_jsonata),
            bytes_max: self.amount(
                &batcher,
                "MaxInputBytesPerBatch",
                (1.0, 262_144.0),
                is_jsonata,
            ),
        };
        if !known.iter().skip(1).any(|name| batcher.has(name)) {
            let message = "MaxItemsPerBatch or MaxInputBytesPerBatch is missing";
            self.error(code::SCHEMA, &place, message);
        }
        Some(read)
    }

    fn reader(&mut self, fields: &Fields<'_>, is_jsonata: bool) -> Option<Reader> {
        let place = fields.at("ItemReader");
        let reader = self.object(fields.map.get("ItemReader")?, &place)?;
        let arguments = if is_jsonata {
            "Arguments"
        } else {
            "Parameters"
        };
        self.only(
            &reader,
            &["Resource", arguments, "ReaderConfig"],
            "an item reader",
        );
        let resource = self.required_string(&reader, "Resource");
        if let Some(resource) = resource {
            self.reader_place(&reader, arguments, resource);
        }
        let arguments = self.template_field(&reader, arguments, is_jsonata);
        let mut read = Reader {
            resource: resource?.to_owned(),
            arguments,
            format: Format::Other,
            items_max: None,
            pointer: None,
            loads: false,
        };
        let config_place = reader.at("ReaderConfig");
        let Some(config) = reader.map.get("ReaderConfig") else {
            return Some(read);
        };
        let config = self.object(config, &config_place)?;
        let known = [
            "InputType",
            "CSVHeaderLocation",
            "CSVHeaders",
            "CSVDelimiter",
            "ItemsPointer",
            "MaxItems",
            "MaxItemsPath",
            "ManifestType",
            "Transformation",
        ];
        self.only(&config, &known, "a reader's configuration");
        read.items_max = self.amount(&config, "MaxItems", (1.0, 100_000_000.0), is_jsonata);
        read.pointer = self.string(&config, "ItemsPointer").map(str::to_owned);
        read.format = self.format(&config);
        read.loads = self.loads(&config, &read.resource);
        Some(read)
    }

    fn format(&mut self, config: &Fields<'_>) -> Format {
        let input_type = self.string(config, "InputType");
        if let Some(given) = input_type
            && !INPUT_TYPES.contains(&given)
        {
            let message = format!("the type of input is one of {}", INPUT_TYPES.join(", "));
            let nearest = nearest(given, INPUT_TYPES);
            self.suggest(code::SCHEMA, &config.at("InputType"), message, nearest);
        }
        let location = self.string(config, "CSVHeaderLocation");
        let headers = self.list(config, "CSVHeaders").map(|values| {
            let texts = values.iter().filter_map(Value::as_str);
            texts.map(str::to_owned).collect::<Vec<_>>()
        });
        match (location, &headers) {
            (None | Some("FIRST_ROW"), None) | (Some("GIVEN"), Some(_)) => {}
            (Some("GIVEN"), None) => self.missing(config, "CSVHeaders"),
            (None | Some("FIRST_ROW"), Some(_)) => {
                let message = "headers are given only where CSVHeaderLocation is \"GIVEN\"";
                self.error(code::SCHEMA, &config.at("CSVHeaders"), message);
            }
            _ => {
                let message = "the location is \"FIRST_ROW\" or \"GIVEN\"";
                self.error(code::SCHEMA, &config.at("CSVHeaderLocation"), message);
            }
        }
        if input_type == Some("CSV") && location.is_none() {
            self.missing(config, "CSVHeaderLocation");
        }
        let delimiter = match self.string(config, "CSVDelimiter") {
            None | Some("COMMA") => ',',
            Some("PIPE") => '|',
            Some("SEMICOLON") => ';',
            Some("SPACE") => ' ',
            Some("TAB") => '\t',
            Some(_) => {
                let message = "the delimiter is COMMA, PIPE, SEMICOLON, SPACE or TAB";
                self.error(code::SCHEMA, &config.at("CSVDelimiter"), message);
                ','
            }
        };
        match input_type {
            Some("CSV") => Format::Csv { delimiter, headers },
            Some("JSON") => Format::Json,
            Some("JSONL") => Format::JsonLines,
            Some("MANIFEST") if self.is_inventory(config) => Format::Inventory,
            _ => Format::Other,
        }
    }

    fn writer(&mut self, fields: &Fields<'_>, is_jsonata: bool) -> Option<Writer> {
        let place = fields.at("ResultWriter");
        let writer = self.object(fields.map.get("ResultWriter")?, &place)?;
        let arguments = if is_jsonata {
            "Arguments"
        } else {
            "Parameters"
        };
        self.only(
            &writer,
            &["Resource", arguments, "WriterConfig"],
            "a result writer",
        );
        let resource = self.string(&writer, "Resource").map(str::to_owned);
        if let Some(resource) = &resource {
            self.writer_place(&writer, arguments, resource);
        }
        let arguments = self.template_field(&writer, arguments, is_jsonata);
        let mut output = None;
        let mut transformation = None;
        let config_place = writer.at("WriterConfig");
        if let Some(config) = writer.map.get("WriterConfig")
            && let Some(config) = self.object(config, &config_place)
        {
            self.only(
                &config,
                &["OutputType", "Transformation"],
                "a writer's configuration",
            );
            output = self.string(&config, "OutputType");
            if output.is_some_and(|output| output != "JSON" && output != "JSONL") {
                let message = "the type of output is \"JSON\" or \"JSONL\"";
                self.error(code::SCHEMA, &config.at("OutputType"), message);
            }
            transformation = self.string(&config, "Transformation");
            if transformation.is_some_and(|one| !["NONE", "COMPACT", "FLATTEN"].contains(&one)) {
                let message = "the transformation is NONE, COMPACT or FLATTEN";
                self.error(code::SCHEMA, &config.at("Transformation"), message);
            }
        }
        if resource.is_none() && !writer.has("WriterConfig") {
            self.missing(&writer, "Resource");
        }
        Some(Writer {
            transformation: match (transformation, &resource) {
                (Some("FLATTEN"), _) => Transformation::Members,
                (Some("NONE"), _) | (None, Some(_)) => Transformation::Records,
                _ => Transformation::Outputs,
            },
            resource,
            arguments,
            is_lines: output == Some("JSONL"),
        })
    }
}
