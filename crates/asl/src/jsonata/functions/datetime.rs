//! The time, and times as text.

use super::super::Error;
use super::super::evaluator::Evaluator;
use super::super::value::Value;
use super::integer::{Case, IntegerPicture};
use super::picture::{self, DAY_MS, Marker, Moment, Part, Presentation, days_of};
use super::{Arguments, Row};

pub(super) const ROWS: &[Row] = &[
    ("now", "<s?s?:s>", 2, now),
    ("millis", "<:n>", 0, millis),
    ("fromMillis", "<n-s?s?:s>", 3, from_millis),
    ("toMillis", "<s-s?:n>", 2, to_millis),
];

const ISO: &str = "[Y0001]-[M01]-[D01]T[H01]:[m01]:[s01].[f001][Z01:01t]";

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// What a date of JavaScript can hold.
const MILLIS_MAX: f64 = 8.64e15;

fn now(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let picture = arguments.string(0).map_or(ISO, |picture| picture);
    let zone = arguments.string(1).map_or("", |zone| zone);
    format(evaluator.environment.now_ms, picture, zone).map(Value::string)
}

fn millis(evaluator: &mut Evaluator<'_>, _: &Arguments<'_>) -> Result<Value, Error> {
    Ok(Value::Number(evaluator.environment.now_ms as f64))
}

fn from_millis(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(millis) = arguments.number(0) else {
        return Ok(Value::Undefined);
    };
    if millis.is_nan() || millis.abs() > MILLIS_MAX {
        return Err(Error::new(
            "D3110",
            format!("{millis} is not a time in milliseconds"),
        ));
    }
    let picture = arguments.string(1).map_or(ISO, |picture| picture);
    evaluator.charge(picture.len())?;
    let zone = arguments.string(2).map_or("", |zone| zone);
    format(millis.trunc() as i64, picture, zone).map(Value::string)
}

/// Minutes east of Greenwich, from a zone such as `-0500`.
fn zone_minutes(zone: &str) -> i64 {
    let offset: i64 = zone.trim_start_matches('+').parse().unwrap_or(0);
    let offset = offset.clamp(-9999, 9999);
    offset / 100 * 60 + offset % 100
}

fn format(millis: i64, picture: &str, zone: &str) -> Result<String, Error> {
    let offset = zone_minutes(zone);
    let moment = Moment::new(millis + offset * 60_000);
    let mut output = String::new();
    for part in picture::parse(picture)? {
        match part {
            Part::Literal(text) => output.push_str(&text),
            Part::Marker(marker) => output.push_str(&component(&marker, &moment, offset)?),
        }
    }
    Ok(output)
}

fn component(marker: &Marker, moment: &Moment, offset: i64) -> Result<String, Error> {
    let value = moment.component(marker.component);
    match (marker.component, &marker.presentation) {
        ('Z' | 'z', Presentation::Integer(digits)) => zone(marker, digits, offset),
        ('Z' | 'z', Presentation::Name(_)) => {
            zone(marker, &IntegerPicture::parse("01:01")?, offset)
        }
        ('P', presentation) => {
            let text = if value == 1 { "pm" } else { "am" };
            Ok(match presentation {
                Presentation::Name(Case::Upper) => text.to_uppercase(),
                _ => text.to_owned(),
            })
        }
        ('C' | 'E', _) => Ok("ISO".to_owned()),
        ('Y', Presentation::Integer(digits)) => {
            let kept = marker.width_max.and_then(|n| 10_i64.checked_pow(n as u32));
            digits.format(kept.map_or(value, |kept| value % kept) as f64)
        }
        (_, Presentation::Integer(digits)) => digits.format(value as f64),
        (name, Presentation::Name(case)) => {
            let text = match name {
                'M' | 'x' => MONTHS[(value - 1).rem_euclid(12) as usize],
                'F' => DAYS[(value - 1).rem_euclid(7) as usize],
                _ => {
                    let message = format!(
                        "the 'name' modifier can only be applied to months and days in the date/time picture string, not {name}"
                    );
                    return Err(Error::new("D3133", message));
                }
            };
            let text = match case {
                Case::Upper => text.to_uppercase(),
                Case::Lower => text.to_lowercase(),
                Case::Title => text.to_owned(),
            };
            Ok(text
                .chars()
                .take(marker.width_max.unwrap_or(usize::MAX))
                .collect())
        }
    }
}

fn zone(marker: &Marker, digits: &IntegerPicture, offset: i64) -> Result<String, Error> {
    if marker.zulu && offset == 0 {
        return Ok("Z".to_owned());
    }
    let (hours, minutes) = (offset.abs() / 60, offset.abs() % 60);
    let text = if digits.regular > 0 || !digits.separators.is_empty() {
        digits.format((hours * 100 + minutes) as f64)?
    } else {
        match digits.mandatory {
            1 | 2 if minutes == 0 => digits.format(hours as f64)?,
            1 | 2 => format!("{}:{minutes:02}", digits.format(hours as f64)?),
            3 | 4 => digits.format((hours * 100 + minutes) as f64)?,
            _ => {
                let message =
                    "the timezone integer format specifier cannot have more than four digits";
                return Err(Error::new("D3134", message));
            }
        }
    };
    let sign = if offset < 0 { '-' } else { '+' };
    let prefix = if marker.component == 'z' { "GMT" } else { "" };
    Ok(format!("{prefix}{sign}{text}"))
}

fn to_millis(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let millis = match arguments.string(1) {
        None => {
            let message = format!(
                "the argument of the toMillis function must be an ISO 8601 formatted timestamp, not {text:?}"
            );
            Some(read_iso(text).ok_or_else(|| Error::new("D3110", message))?)
        }
        Some(picture) => {
            evaluator.charge(picture.len() + text.len())?;
            read(text, picture, evaluator.environment.now_ms)?
        }
    };
    Ok(millis.map_or(Value::Undefined, |millis| Value::Number(millis as f64)))
}

/// `2017`, `2017-10`, `2017-10-30`, with `T16:25:32`, a fraction and a zone.
fn read_iso(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let number = |part: &str, digits: usize| -> Option<i64> {
        let good = part.len() == digits && part.bytes().all(|b| b.is_ascii_digit());
        good.then(|| part.parse().ok()).flatten()
    };
    let mut fields = date.split('-');
    let year = number(fields.next()?, 4)?;
    let month = fields.next().map_or(Some(1), |part| number(part, 2))?;
    let day = fields.next().map_or(Some(1), |part| number(part, 2))?;
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day);
    if fields.next().is_some() || !in_range {
        return None;
    }
    let days = days_of(year, month, day);
    let Some(time) = time else {
        return Some(days * DAY_MS);
    };
    let (clock, offset) = match time.find(['Z', '+', '-']) {
        None => (time, 0),
        Some(at) if &time[at..] == "Z" => (&time[..at], 0),
        Some(at) => {
            let zone = time[at + 1..].replace(':', "");
            let sign = if time[at..].starts_with('-') { -1 } else { 1 };
            let zone = number(&zone, 4)?;
            (&time[..at], sign * (zone / 100 * 60 + zone % 100))
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction: String = fraction.chars().chain("00".chars()).take(3).collect();
    let mut fields = clock.split(':');
    let mut field = || number(fields.next()?, 2);
    let (hour, minute, second) = (field()?, field()?, field()?);
    if hour > 24 || minute > 59 || second > 59 || fields.next().is_some() {
        return None;
    }
    let ms = ((hour * 60 + minute - offset) * 60 + second) * 1000 + fraction.parse::<i64>().ok()?;
    Some(days * DAY_MS + ms)
}

/// The number of a component's text.
fn read_component(marker: &Marker, text: &str) -> Result<Option<i64>, Error> {
    let find = |names: &[&str]| {
        let length = marker.width_max.unwrap_or(usize::MAX);
        let same = |name: &&str| {
            let name: String = name.chars().take(length).collect();
            name.eq_ignore_ascii_case(text)
        };
        names.iter().position(same).map(|at| at as i64 + 1)
    };
    match (marker.component, &marker.presentation) {
        ('Z' | 'z', _) => {
            if text == "Z" {
                return Ok(Some(0));
            }
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            let number: i64 = digits.parse().unwrap_or(0);
            let minutes = if digits.len() <= 2 {
                number * 60
            } else {
                number / 100 * 60 + number % 100
            };
            Ok(Some(if text.contains('-') {
                -minutes
            } else {
                minutes
            }))
        }
        ('P', _) => Ok(Some(i64::from(text.eq_ignore_ascii_case("pm")))),
        ('M' | 'x', Presentation::Name(_)) => Ok(find(&MONTHS)),
        ('F', Presentation::Name(_)) => Ok(find(&DAYS)),
        (
            name @ ('C' | 'E' | 'Y' | 'D' | 'd' | 'W' | 'w' | 'X' | 'H' | 'h' | 'm' | 's' | 'f'),
            Presentation::Name(_),
        ) => {
            let message = format!(
                "the 'name' modifier can only be applied to months and days in the date/time picture string, not {name}"
            );
            Err(Error::new("D3133", message))
        }
        (_, Presentation::Integer(digits)) => Ok(digits.read(text)?.map(|number| number as i64)),
        _ => Ok(None),
    }
}

/// The regular expression of one component.
fn regex_of(marker: &Marker) -> Result<String, Error> {
    Ok(match (marker.component, &marker.presentation) {
        ('Z' | 'z', Presentation::Integer(digits)) => {
            let separator = digits.separators.first().map(|(_, separator)| *separator);
            let more = separator.map_or(String::new(), |c| {
                format!("{}[0-9]+", regex::escape(&c.to_string()))
            });
            let prefix = if marker.component == 'z' { "GMT" } else { "" };
            let zulu = if marker.zulu { "|Z" } else { "" };
            format!("(?:{prefix}[-+][0-9]+{more}{zulu})")
        }
        ('P', _) => "(?:am|pm)".to_owned(),
        (_, Presentation::Name(_)) => "[a-zA-Z]+".to_owned(),
        (_, Presentation::Integer(digits)) => match marker.digits_read {
            Some(count) => format!("[0-9]{{{count}}}"),
            None => digits.regex()?,
        },
    })
}

fn read(text: &str, picture: &str, now_ms: i64) -> Result<Option<i64>, Error> {
    let parts = picture::parse(picture)?;
    let mut pattern = String::from("(?i)^");
    let mut markers = Vec::new();
    for part in &parts {
        match part {
            Part::Literal(literal) => pattern.push_str(&regex::escape(literal)),
            Part::Marker(marker) => {
                pattern.push_str(&format!("({})", regex_of(marker)?));
                markers.push(marker);
            }
        }
    }
    pattern.push('$');
    let regex = regex::RegexBuilder::new(&pattern)
        .size_limit(1 << 20)
        .build();
    let Ok(regex) = regex else {
        return Err(Error::new(
            "U1001",
            "the date/time picture string is too large",
        ));
    };
    let Some(captures) = regex.captures(text) else {
        return Ok(None);
    };
    let mut fields = Vec::new();
    for (index, marker) in markers.iter().enumerate() {
        let text = captures.get(index + 1).map_or("", |group| group.as_str());
        match read_component(marker, text)? {
            Some(value) => fields.push((marker.component, value)),
            None => return Ok(None),
        }
    }
    assemble(&fields, now_ms)
}

/// The time that the fields mean: what comes before the first given one is today's, what comes
/// after the last is the least.
fn assemble(fields: &[(char, i64)], now_ms: i64) -> Result<Option<i64>, Error> {
    if fields.is_empty() {
        return Ok(None);
    }
    let given = |component: char| {
        let found = fields.iter().rev().find(|(name, _)| *name == component);
        found.map(|(_, value)| *value)
    };
    let incomplete = || {
        Error::new(
            "D3136",
            "the date/time picture string is missing specifiers required to parse the timestamp",
        )
    };
    if ['X', 'x', 'W', 'w']
        .into_iter()
        .any(|component| given(component).is_some())
    {
        return Err(incomplete());
    }
    let day_of_year = given('d').is_some();
    let twelve = given('h').is_some() || given('P').is_some();
    let date: &[char] = if day_of_year {
        &['Y', 'd']
    } else {
        &['Y', 'M', 'D']
    };
    let clock: &[char] = if twelve {
        &['P', 'h', 'm', 's', 'f']
    } else {
        &['H', 'm', 's', 'f']
    };
    let today = Moment::new(now_ms);
    let (mut started, mut ended) = (false, false);
    let mut values = Vec::new();
    for &component in date.iter().chain(clock) {
        let value = match given(component) {
            Some(_) if ended => return Err(incomplete()),
            Some(value) => {
                started = true;
                value
            }
            None if started => {
                ended = true;
                i64::from(matches!(component, 'M' | 'D' | 'd'))
            }
            None => today.component(component),
        };
        values.push((component, value.clamp(-400_000, 400_000)));
    }
    let value = |component: char| {
        let found = values.iter().find(|(name, _)| *name == component);
        found.map_or(0, |(_, value)| *value)
    };
    let year = full_year(value('Y'));
    let days = if day_of_year {
        days_of(year, 1, 1) + value('d') - 1
    } else {
        days_of(year, value('M'), value('D'))
    };
    let hour = if twelve {
        value('h') % 12 + 12 * value('P')
    } else {
        value('H')
    };
    let minutes = hour * 60 + value('m') - given('Z').or(given('z')).unwrap_or(0);
    Ok(Some(
        days * DAY_MS + (minutes * 60 + value('s')) * 1000 + value('f'),
    ))
}

/// Two digits mean a year of the twentieth century, as JavaScript has it.
fn full_year(year: i64) -> i64 {
    match year {
        0..=99 => 1900 + year,
        year => year,
    }
}
