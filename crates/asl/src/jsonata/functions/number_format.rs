//! `$formatNumber`: decimal pictures after XPath's `format-number`.

use super::super::evaluator::Evaluator;
use super::super::value::Value;
use super::super::{Error, number};
use super::Arguments;

/// The characters with a meaning in a picture.
struct Symbols {
    decimal: String,
    grouping: String,
    exponent: String,
    minus: String,
    percent: String,
    per_mille: String,
    zero: String,
    digit: String,
    separator: String,
}

impl Symbols {
    fn new(options: &Value) -> Symbols {
        let option = |name: &str, default: &str| match options {
            Value::Object(options) => match options.find(name) {
                Some(Value::String(text)) if !text.is_empty() => text.to_string(),
                _ => default.to_owned(),
            },
            _ => default.to_owned(),
        };
        Symbols {
            decimal: option("decimal-separator", "."),
            grouping: option("grouping-separator", ","),
            exponent: option("exponent-separator", "e"),
            minus: option("minus-sign", "-"),
            percent: option("percent", "%"),
            per_mille: option("per-mille", "\u{2030}"),
            zero: option("zero-digit", "0"),
            digit: option("digit", "#"),
            separator: option("pattern-separator", ";"),
        }
    }

    fn is_digit(&self, current: char) -> bool {
        let zero = self.zero.chars().next().map_or(0x30, |zero| zero as u32);
        (zero..zero + 10).contains(&(current as u32))
    }

    /// How many digits a part of a picture demands.
    fn mandatory(&self, part: &str) -> usize {
        part.chars().filter(|c| self.is_digit(*c)).count()
    }

    /// Whether it stands for a part of the number.
    fn is_active(&self, current: char) -> bool {
        self.is_digit(current)
            || [&self.decimal, &self.grouping, &self.exponent, &self.digit]
                .iter()
                .any(|symbol| symbol.starts_with(current))
    }
}

/// One part of a picture, taken apart.
#[derive(Default)]
struct Parts<'p> {
    prefix: &'p str,
    suffix: &'p str,
    active: &'p str,
    mantissa: &'p str,
    exponent: Option<&'p str>,
    integer: &'p str,
    fraction: &'p str,
}

fn split<'p>(picture: &'p str, symbols: &Symbols) -> Parts<'p> {
    // An exponent separator alone does not start the active part.
    let starts = |c: char| symbols.is_active(c) && !symbols.exponent.starts_with(c);
    let start = picture.find(starts).unwrap_or(picture.len());
    let end = picture.rfind(starts).map_or(start, |at| {
        at + picture[at..].chars().next().map_or(0, char::len_utf8)
    });
    let active = &picture[start..end.max(start)];
    let (mantissa, exponent) = match active.split_once(symbols.exponent.as_str()) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (active, None),
    };
    let suffix = &picture[end.max(start)..];
    // A separator with nothing behind it is a fault, not text.
    let exponent = exponent.or_else(|| suffix.starts_with(symbols.exponent.as_str()).then_some(""));
    let (integer, fraction) = mantissa
        .split_once(symbols.decimal.as_str())
        .unwrap_or((mantissa, ""));
    Parts {
        prefix: &picture[..start],
        suffix,
        active,
        mantissa,
        exponent,
        integer,
        fraction,
    }
}

/// Something that may be wrong with a picture: whether it is, its code, and in words.
type Fault = (bool, &'static str, &'static str);

/// Finds what is wrong with a part of a picture.
fn validate(picture: &str, parts: &Parts<'_>, symbols: &Symbols) -> Result<(), Error> {
    let first = symbol_faults(picture, symbols);
    let second = separator_faults(picture, parts, symbols);
    let third = digit_faults(picture, parts, symbols);
    let mut all = first
        .into_iter()
        .chain(second)
        .chain(third)
        .collect::<Vec<Fault>>();
    all.sort_by_key(|(_, code, _)| *code);
    match all.iter().find(|(wrong, ..)| *wrong) {
        Some((_, code, message)) => {
            let message = format!("the picture string of $formatNumber has {message}");
            Err(Error::new(code, message))
        }
        None => Ok(()),
    }
}

fn symbol_faults(picture: &str, symbols: &Symbols) -> [Fault; 4] {
    let count = |symbol: &str| picture.matches(symbol).count();
    let (percent, per_mille) = (count(&symbols.percent), count(&symbols.per_mille));
    [
        (
            count(&symbols.decimal) > 1,
            "D3081",
            "more than one decimal separator",
        ),
        (percent > 1, "D3082", "more than one percent character"),
        (per_mille > 1, "D3083", "more than one per-mille character"),
        (
            percent > 0 && per_mille > 0,
            "D3084",
            "both a percent and a per-mille character",
        ),
    ]
}

fn separator_faults(picture: &str, parts: &Parts<'_>, symbols: &Symbols) -> [Fault; 3] {
    let (grouping, decimal) = (symbols.grouping.as_str(), symbols.decimal.as_str());
    let beside = |a: &str, b: &str| picture.contains(&format!("{a}{b}"));
    let touching = beside(grouping, decimal) || beside(decimal, grouping);
    let ending = !picture.contains(decimal) && parts.integer.ends_with(grouping);
    [
        (
            touching,
            "D3087",
            "a grouping separator beside the decimal separator",
        ),
        (
            ending,
            "D3088",
            "a grouping separator at the end of the integer part",
        ),
        (
            beside(grouping, grouping),
            "D3089",
            "two adjacent grouping separators",
        ),
    ]
}

fn digit_faults(picture: &str, parts: &Parts<'_>, symbols: &Symbols) -> [Fault; 6] {
    let digit = |c: char| symbols.is_digit(c);
    let optional = |c: char| symbols.digit.starts_with(c);
    let none = !parts.mantissa.contains(|c| digit(c) || optional(c));
    let passive = parts.active.contains(|c| !symbols.is_active(c));
    let first = parts.integer.find(digit).unwrap_or(usize::MAX);
    let integer = parts.integer.rfind(optional).is_some_and(|at| at > first);
    let last = parts.fraction.rfind(digit).unwrap_or(0);
    let fraction = parts.fraction.find(optional).is_some_and(|at| at < last);
    let scaled = picture.contains(&symbols.percent) || picture.contains(&symbols.per_mille);
    let exponent = parts
        .exponent
        .is_some_and(|e| e.is_empty() || !e.chars().all(digit));
    [
        (none, "D3085", "no digit in the mantissa"),
        (passive, "D3086", "a passive character between active ones"),
        (
            integer,
            "D3090",
            "an optional digit behind a mandatory one in the integer part",
        ),
        (
            fraction,
            "D3091",
            "a mandatory digit behind an optional one in the fractional part",
        ),
        (
            parts.exponent.is_some() && scaled,
            "D3092",
            "an exponent together with a percent or per-mille character",
        ),
        (
            exponent,
            "D3093",
            "an exponent of something else than digits",
        ),
    ]
}

/// How many digits are on one side of each grouping separator.
fn groups(text: &str, symbols: &Symbols, behind: bool) -> Vec<usize> {
    let counts = |c: &char| symbols.is_digit(*c) || symbols.digit.starts_with(*c);
    let positions = text
        .match_indices(symbols.grouping.as_str())
        .map(|(at, _)| {
            let side = if behind { &text[at..] } else { &text[..at] };
            side.chars().filter(counts).count()
        });
    positions.collect()
}

/// The distance of separators, if they are regular.
fn distance(positions: &[usize]) -> Option<usize> {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let factor = positions.iter().copied().fold(0, gcd);
    let all = (1..=positions.len()).all(|index| positions.contains(&(index * factor)));
    (factor > 0 && all).then_some(factor)
}

pub(super) fn format_number(
    evaluator: &mut Evaluator<'_>,
    arguments: &Arguments<'_>,
) -> Result<Value, Error> {
    let (Some(number), Some(picture)) = (arguments.number(0), arguments.string(1)) else {
        return Ok(Value::Undefined);
    };
    evaluator.charge_bytes(picture.len().saturating_mul(16))?;
    let symbols = Symbols::new(arguments.at(2));
    let pictures: Vec<&str> = picture.split(symbols.separator.as_str()).collect();
    if pictures.len() > 2 {
        let message = "the picture string of $formatNumber has more than one pattern separator";
        return Err(Error::new("D3080", message));
    }
    for picture in &pictures {
        validate(picture, &split(picture, &symbols), &symbols)?;
    }
    let negative = number < 0.0;
    let (picture, minus) = match (negative, pictures.get(1)) {
        (true, Some(second)) => (*second, ""),
        (true, None) => (pictures[0], symbols.minus.as_str()),
        (false, _) => (pictures[0], ""),
    };
    let parts = split(picture, &symbols);
    let scale = if picture.contains(symbols.percent.as_str()) {
        100.0
    } else if picture.contains(symbols.per_mille.as_str()) {
        1000.0
    } else {
        1.0
    };
    let text = digits(number.abs() * scale, &parts, &symbols);
    Ok(Value::string(format!(
        "{minus}{}{text}{}",
        parts.prefix, parts.suffix
    )))
}

/// How many digits a picture asks for.
struct Sizes {
    integer_min: usize,
    fraction_min: usize,
    fraction_max: usize,
    /// Digits before the point where there is an exponent.
    scaling: usize,
}

impl Sizes {
    fn new(parts: &Parts<'_>, symbols: &Symbols) -> Sizes {
        let all = parts.fraction.chars();
        let all = all.filter(|c| symbols.is_digit(*c) || symbols.digit.starts_with(*c));
        let scaling = symbols.mandatory(parts.integer);
        let mut integer_min = scaling;
        let mut fraction_min = symbols.mandatory(parts.fraction);
        let mut fraction_max = all.count().min(300);
        if integer_min == 0 && fraction_max == 0 {
            if parts.exponent.is_some() {
                (fraction_min, fraction_max) = (1, 1);
            } else {
                integer_min = 1;
            }
        }
        let optional = parts.integer.contains(symbols.digit.as_str());
        if parts.exponent.is_some() && integer_min == 0 && optional {
            integer_min = 1;
        }
        if integer_min == 0 && fraction_min == 0 {
            fraction_min = 1;
        }
        Sizes {
            integer_min,
            fraction_min,
            fraction_max,
            scaling,
        }
    }
}

/// The number without its sign, as the active part of a picture says.
fn digits(number: f64, parts: &Parts<'_>, symbols: &Symbols) -> String {
    let sizes = Sizes::new(parts, symbols);
    let mut exponent = 0_i32;
    let mut mantissa = number;
    if parts.exponent.is_some() && number > 0.0 {
        exponent = number::magnitude(number) + 1 - sizes.scaling as i32;
        mantissa = number::shift(number, -exponent);
        // The reference divides until the mantissa is not above its greatest: 100 is 10.0e1.
        let least = number::shift(1.0, sizes.scaling as i32 - 1);
        if exponent > 0 && mantissa == least {
            exponent -= 1;
            mantissa = number::shift(mantissa, 1);
        }
    }
    let places = sizes.fraction_max;
    let rounded = number::round_half_even(mantissa, places as i32);
    let text = format!("{rounded:.places$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole = whole.trim_start_matches('0');
    let zeros = "0".repeat(sizes.integer_min.saturating_sub(whole.len()));
    let fraction = fraction.trim_end_matches('0');
    let more = "0".repeat(sizes.fraction_min.saturating_sub(fraction.len()));
    let fraction = format!("{fraction}{more}");
    let mut output = grouped(&format!("{zeros}{whole}"), parts, symbols);
    if !fraction.is_empty() {
        output.push_str(&symbols.decimal);
        let positions = groups(parts.fraction, symbols, false);
        for (index, digit) in fraction.chars().enumerate() {
            if positions.contains(&index) && index > 0 {
                output.push_str(&symbols.grouping);
            }
            output.push(digit);
        }
    }
    if let Some(picture) = parts.exponent {
        let size = exponent.abs().to_string();
        let zeros = "0".repeat(symbols.mandatory(picture).saturating_sub(size.len()));
        let minus = if exponent < 0 {
            symbols.minus.as_str()
        } else {
            ""
        };
        output.push_str(&format!("{}{minus}{zeros}{size}", symbols.exponent));
    }
    localized(&output, symbols)
}

fn grouped(whole: &str, parts: &Parts<'_>, symbols: &Symbols) -> String {
    let positions = groups(parts.integer, symbols, true);
    let regular = distance(&positions);
    let mut output = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let behind = whole.len() - index;
        let here = match regular {
            Some(distance) => behind.is_multiple_of(distance),
            None => positions.contains(&behind),
        };
        if here && index > 0 {
            output.push_str(&symbols.grouping);
        }
        output.push(digit);
    }
    output
}

/// In the digits of the picture's family.
fn localized(text: &str, symbols: &Symbols) -> String {
    let zero = symbols.zero.chars().next().map_or(0x30, |zero| zero as u32);
    let moved = |current: char| {
        let digit = current.to_digit(10).filter(|_| zero != 0x30);
        digit
            .and_then(|digit| char::from_u32(zero + digit))
            .unwrap_or(current)
    };
    text.chars().map(moved).collect()
}
