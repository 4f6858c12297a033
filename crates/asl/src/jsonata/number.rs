//! Numbers as text, the way JavaScript writes them.

/// The shortest text that reads back as this number.
pub(super) fn to_text(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let (digits, exponent) = scientific(number.abs());
    let sign = if number < 0.0 { "-" } else { "" };
    let count = digits.len() as i32;
    let point = exponent + 1;
    let text = if (count..=21).contains(&point) {
        format!("{digits}{}", "0".repeat((point - count) as usize))
    } else if (1..=21).contains(&point) {
        let (whole, fraction) = digits.split_at(point as usize);
        format!("{whole}.{fraction}")
    } else if (-5..=0).contains(&point) {
        format!("0.{}{digits}", "0".repeat(-point as usize))
    } else {
        let mark = if exponent < 0 { '-' } else { '+' };
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        format!("{first}{point}{rest}e{mark}{}", exponent.abs())
    };
    format!("{sign}{text}")
}

/// Significant digits and the power of ten of the first.
fn scientific(number: f64) -> (String, i32) {
    let text = format!("{number:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = mantissa.chars().filter(char::is_ascii_digit).collect();
    (digits, exponent.parse().unwrap_or(0))
}

/// Rounded to 15 significant digits, which hides what binary fractions add.
pub(super) fn to_precision_15(number: f64) -> f64 {
    format!("{number:.14e}").parse().unwrap_or(number)
}

/// Rounds half to even at a decimal place, which may be negative.
pub(super) fn round_half_even(number: f64, places: i32) -> f64 {
    // By moving the point in the text, so that 2.675 is what was written and not what it is stored as.
    let shifted = shift(number, places);
    if !shifted.is_finite() {
        return number;
    }
    let floor = shifted.floor();
    let rest = shifted - floor;
    let rounded = if rest > 0.5 || (rest == 0.5 && floor % 2.0 != 0.0) {
        floor + 1.0
    } else {
        floor
    };
    let result = shift(rounded, -places);
    if result == 0.0 { 0.0 } else { result }
}

/// The power of ten of the first significant digit.
pub(super) fn magnitude(number: f64) -> i32 {
    scientific(number).1
}

/// Times a power of ten, exact in decimal.
pub(super) fn shift(number: f64, places: i32) -> f64 {
    let (text, exponent) = match format!("{number:e}").split_once('e') {
        Some((mantissa, exponent)) => (mantissa.to_owned(), exponent.parse::<i32>().unwrap_or(0)),
        None => return number,
    };
    let exponent = exponent.saturating_add(places);
    format!("{text}e{exponent}").parse().unwrap_or(number)
}

/// The value of a numeral: digits as in JSON or with zeros in front, and `0x`, `0o`, `0b`.
pub(super) fn parse(text: &str) -> Option<f64> {
    let prefix = text.get(..2).unwrap_or_default().to_ascii_lowercase();
    let radix = match prefix.as_str() {
        "0x" => 16,
        "0o" => 8,
        "0b" => 2,
        _ => return parse_decimal(text),
    };
    let digits = &text[2..];
    if digits.is_empty() {
        return None;
    }
    let mut value = 0.0;
    for digit in digits.chars() {
        value = value * f64::from(radix) + f64::from(digit.to_digit(radix)?);
    }
    Some(value)
}

fn parse_decimal(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let good = digits(whole)
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
    let value: f64 = if good {
        text.parse().ok()?
    } else {
        return None;
    };
    value.is_finite().then_some(value)
}
