//! Whole numbers in a picture: digits, letters, Roman numerals, words.

use super::super::{Error, number};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Upper,
    Lower,
    Title,
}

#[derive(Clone, Debug)]
pub(super) enum Form {
    Letters(Case),
    Roman(Case),
    Words(Case),
    Decimal,
    /// A numbering sequence that nobody knows.
    Unknown(String),
}

/// A parsed picture.
#[derive(Clone, Debug)]
pub(super) struct IntegerPicture {
    pub(super) form: Form,
    pub(super) ordinal: bool,
    pub(super) mandatory: usize,
    pub(super) optional: usize,
    /// The digit zero of the digits in use.
    zero: char,
    /// Separators and how many digits are behind each; from the right.
    pub(super) separators: Vec<(usize, char)>,
    /// The distance of separators, if it is always the same.
    pub(super) regular: usize,
}

/// Zeros of the digits that Unicode has.
const ZEROS: [u32; 37] = [
    0x30, 0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6,
    0x0D66, 0x0DE6, 0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80,
    0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0,
    0xFF10,
];

/// The zero of a digit's family.
fn zero_of(digit: char) -> Option<char> {
    let code = digit as u32;
    let zero = ZEROS
        .iter()
        .find(|&&zero| (zero..zero + 10).contains(&code))?;
    char::from_u32(*zero)
}

impl IntegerPicture {
    pub(super) fn parse(picture: &str) -> Result<IntegerPicture, Error> {
        let (primary, modifier) = match picture.rsplit_once(';') {
            Some((primary, modifier)) => (primary, modifier),
            None => (picture, ""),
        };
        let mut parsed = IntegerPicture {
            form: Form::Decimal,
            ordinal: modifier.starts_with('o'),
            mandatory: 0,
            optional: 0,
            zero: '0',
            separators: Vec::new(),
            regular: 0,
        };
        parsed.form = match primary {
            "A" => Form::Letters(Case::Upper),
            "a" => Form::Letters(Case::Lower),
            "I" => Form::Roman(Case::Upper),
            "i" => Form::Roman(Case::Lower),
            "W" => Form::Words(Case::Upper),
            "w" => Form::Words(Case::Lower),
            "Ww" => Form::Words(Case::Title),
            digits => parsed.digits(digits)?,
        };
        Ok(parsed)
    }

    fn digits(&mut self, digits: &str) -> Result<Form, Error> {
        let mut family = None;
        let mut position = 0;
        for current in digits.chars().rev() {
            if let Some(zero) = zero_of(current) {
                self.mandatory += 1;
                position += 1;
                if family.is_some_and(|family| family != zero) {
                    let message = "in a decimal digit pattern, all digits must be from the same decimal group";
                    return Err(Error::new("D3131", message));
                }
                family = Some(zero);
            } else if current == '#' {
                self.optional += 1;
                position += 1;
            } else {
                self.separators.push((position, current));
            }
        }
        let Some(zero) = family else {
            return Ok(Form::Unknown(digits.to_owned()));
        };
        self.zero = zero;
        self.regular = regular(&self.separators);
        Ok(Form::Decimal)
    }

    pub(super) fn format(&self, value: f64) -> Result<String, Error> {
        let size = value.abs();
        let text = match &self.form {
            Form::Letters(case) => letters(size, *case),
            Form::Roman(case) => cased(&roman(size), *case),
            Form::Words(case) => cased(&words(size, false, self.ordinal), *case),
            Form::Decimal => self.decimal(size),
            Form::Unknown(token) => return Err(unsupported(token)),
        };
        Ok(if value < 0.0 {
            format!("-{text}")
        } else {
            text
        })
    }

    fn decimal(&self, size: f64) -> String {
        let plain = number::to_text(size);
        let mut digits: Vec<char> = plain.chars().collect();
        while digits.len() < self.mandatory {
            digits.insert(0, '0');
        }
        let count = digits.len();
        let ordinal = self.ordinal.then(|| suffix(&digits));
        let mut output = String::new();
        for (index, digit) in digits.iter().enumerate() {
            let behind = count - index;
            if index > 0 {
                let separator = if self.regular > 0 {
                    let first = self.separators.first();
                    first.filter(|_| behind.is_multiple_of(self.regular))
                } else {
                    self.separators
                        .iter()
                        .find(|(position, _)| *position == behind)
                };
                output.extend(separator.map(|(_, separator)| *separator));
            }
            let moved = digit
                .to_digit(10)
                .and_then(|digit| char::from_u32(self.zero as u32 + digit));
            output.push(moved.unwrap_or(*digit));
        }
        output.push_str(ordinal.unwrap_or_default());
        output
    }

    /// The number that a text means.
    pub(super) fn read(&self, text: &str) -> Result<Option<f64>, Error> {
        Ok(match &self.form {
            Form::Letters(_) => Some(text.to_ascii_uppercase().bytes().fold(0.0, |sum, letter| {
                sum * 26.0 + f64::from(letter.wrapping_sub(b'A')) + 1.0
            })),
            Form::Roman(_) => read_roman(&text.to_ascii_uppercase()),
            Form::Words(_) => read_words(&text.to_ascii_lowercase()),
            Form::Decimal => {
                let text = if self.ordinal {
                    text.get(..text.len().saturating_sub(2)).unwrap_or("")
                } else {
                    text
                };
                let mut digits = String::new();
                for current in text.chars() {
                    if self
                        .separators
                        .iter()
                        .any(|(_, separator)| *separator == current)
                    {
                        continue;
                    }
                    match (current as u32).checked_sub(self.zero as u32) {
                        Some(digit @ 0..=9) => digits.push_str(&digit.to_string()),
                        _ if current == '-' && digits.is_empty() => digits.push('-'),
                        _ => break,
                    }
                }
                digits.parse().ok()
            }
            Form::Unknown(token) => return Err(unsupported(token)),
        })
    }

    /// A regular expression for the texts it can read.
    pub(super) fn regex(&self) -> Result<String, Error> {
        Ok(match &self.form {
            Form::Letters(Case::Lower) => "[a-z]+".to_owned(),
            Form::Letters(_) => "[A-Z]+".to_owned(),
            Form::Roman(Case::Lower) => "[mdclxvi]+".to_owned(),
            Form::Roman(_) => "[MDCLXVI]+".to_owned(),
            Form::Words(_) => {
                let mut known: Vec<String> = word_values().map(|(word, _)| word).collect();
                known.extend(["and".to_owned(), "[\\-, ]".to_owned()]);
                format!("(?:{})+", known.join("|"))
            }
            Form::Decimal => {
                let nine = char::from_u32(self.zero as u32 + 9).unwrap_or('9');
                let digit = format!("[{}-{nine}]", self.zero);
                let ordinal = if self.ordinal { "(?:th|st|nd|rd)" } else { "" };
                format!("{digit}+{ordinal}")
            }
            Form::Unknown(token) => return Err(unsupported(token)),
        })
    }
}

fn unsupported(token: &str) -> Error {
    Error::new(
        "D3130",
        format!(
            "formatting or parsing an integer as a sequence starting with {token:?} is not supported"
        ),
    )
}

/// The distance of separators if each multiple of it, up to the last, has the same one.
fn regular(separators: &[(usize, char)]) -> usize {
    let Some((_, first)) = separators.first() else {
        return 0;
    };
    if separators.iter().any(|(_, separator)| separator != first) {
        return 0;
    }
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let factor = separators
        .iter()
        .map(|(position, _)| *position)
        .fold(0, gcd);
    let all = (1..=separators.len()).all(|index| {
        separators
            .iter()
            .any(|(position, _)| *position == index * factor)
    });
    if all { factor } else { 0 }
}

fn suffix(digits: &[char]) -> &'static str {
    match digits {
        [.., '1', _] => "th",
        [.., '1'] => "st",
        [.., '2'] => "nd",
        [.., '3'] => "rd",
        _ => "th",
    }
}

fn cased(text: &str, case: Case) -> String {
    match case {
        Case::Upper => text.to_uppercase(),
        Case::Lower => text.to_lowercase(),
        Case::Title => text.to_owned(),
    }
}

fn letters(value: f64, case: Case) -> String {
    let first = if case == Case::Lower { b'a' } else { b'A' };
    let mut rest = value.min(1e15) as u64;
    let mut reversed = Vec::new();
    while rest > 0 {
        reversed.push(char::from(first + ((rest - 1) % 26) as u8));
        rest = (rest - 1) / 26;
    }
    reversed.iter().rev().collect()
}

const ROMAN: [(u32, &str); 13] = [
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
];

fn roman(value: f64) -> String {
    // A numeral of a thousand letters is long enough.
    let mut rest = value.min(1_000_000.0) as u32;
    let mut text = String::new();
    for (size, letters) in ROMAN {
        while rest >= size {
            text.push_str(letters);
            rest -= size;
        }
    }
    text
}

fn read_roman(text: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut greatest = 0;
    for letter in text.chars().rev() {
        let (value, _) = ROMAN
            .iter()
            .find(|(_, letters)| letters.len() == 1 && letters.starts_with(letter))?;
        if *value < greatest {
            total -= f64::from(*value);
        } else {
            greatest = *value;
            total += f64::from(*value);
        }
    }
    Some(total)
}

const FEW: [&str; 20] = [
    "Zero",
    "One",
    "Two",
    "Three",
    "Four",
    "Five",
    "Six",
    "Seven",
    "Eight",
    "Nine",
    "Ten",
    "Eleven",
    "Twelve",
    "Thirteen",
    "Fourteen",
    "Fifteen",
    "Sixteen",
    "Seventeen",
    "Eighteen",
    "Nineteen",
];
const ORDINALS: [&str; 20] = [
    "Zeroth",
    "First",
    "Second",
    "Third",
    "Fourth",
    "Fifth",
    "Sixth",
    "Seventh",
    "Eighth",
    "Ninth",
    "Tenth",
    "Eleventh",
    "Twelfth",
    "Thirteenth",
    "Fourteenth",
    "Fifteenth",
    "Sixteenth",
    "Seventeenth",
    "Eighteenth",
    "Nineteenth",
];
const DECADES: [&str; 8] = [
    "Twenty", "Thirty", "Forty", "Fifty", "Sixty", "Seventy", "Eighty", "Ninety",
];
const MAGNITUDES: [&str; 4] = ["Thousand", "Million", "Billion", "Trillion"];

/// A number in words; `follows` when words of greater parts are before it.
fn words(value: f64, follows: bool, ordinal: bool) -> String {
    let join = |joint: &'static str| if follows { joint } else { "" };
    if value < 20.0 {
        let names = if ordinal { &ORDINALS } else { &FEW };
        return format!("{}{}", join(" and "), names[value as usize]);
    }
    if value < 100.0 {
        let (tens, rest) = ((value / 10.0).floor(), value % 10.0);
        let decade = DECADES[tens as usize - 2];
        let text = format!("{}{decade}", join(" and "));
        return match (rest > 0.0, ordinal) {
            (true, _) => format!("{text}-{}", words(rest, false, ordinal)),
            (false, true) => format!("{}ieth", &text[..text.len() - 1]),
            (false, false) => text,
        };
    }
    let (head, rest) = if value < 1000.0 {
        let hundreds = (value / 100.0).floor();
        (format!("{} Hundred", FEW[hundreds as usize]), value % 100.0)
    } else if value < 1e90 {
        let magnitude = ((value.log10() / 3.0 + 1e-12).floor() as usize).min(MAGNITUDES.len());
        let factor = 1000_f64.powi(magnitude as i32);
        let mantissa = (value / factor).floor();
        let head = format!(
            "{} {}",
            words(mantissa, false, false),
            MAGNITUDES[magnitude - 1]
        );
        (head, value - mantissa * factor)
    } else {
        return number::to_text(value);
    };
    let text = format!("{}{head}", join(", "));
    match (rest > 0.0, ordinal) {
        (true, _) => format!("{text}{}", words(rest, true, ordinal)),
        (false, true) => format!("{text}th"),
        (false, false) => text,
    }
}

/// Words and what they stand for, longest first so that a prefix doesn't win.
fn word_values() -> impl Iterator<Item = (String, f64)> {
    let mut known: Vec<(String, f64)> = Vec::new();
    for names in [FEW, ORDINALS] {
        known.extend(
            names
                .iter()
                .zip(0..)
                .map(|(name, value)| (name.to_lowercase(), f64::from(value))),
        );
    }
    for (name, tens) in DECADES.iter().zip(2..) {
        let name = name.to_lowercase();
        let value = f64::from(tens * 10);
        known.push((format!("{}ieth", &name[..name.len() - 1]), value));
        known.push((name, value));
    }
    let sizes = std::iter::once(("Hundred", 100.0));
    let powers = MAGNITUDES
        .iter()
        .zip(1..)
        .map(|(name, power)| (*name, 1000_f64.powi(power)));
    for (name, value) in sizes.chain(powers) {
        let name = name.to_lowercase();
        known.push((format!("{name}th"), value));
        known.push((name, value));
    }
    known.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
    known.into_iter()
}

fn read_words(text: &str) -> Option<f64> {
    let known: Vec<(String, f64)> = word_values().collect();
    let mut segments = vec![0.0];
    let words = text
        .split([' ', '-', ','])
        .filter(|word| !word.is_empty() && *word != "and");
    for word in words {
        let (_, value) = known.iter().find(|(name, _)| name == word)?;
        let top = segments.pop().unwrap_or(0.0);
        if *value >= 100.0 {
            segments.push(top * value);
        } else if top >= 1000.0 {
            segments.extend([top, *value]);
        } else {
            segments.push(top + value);
        }
    }
    Some(segments.iter().sum())
}
