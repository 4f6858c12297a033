//! Pictures of dates and times, such as `[Y0001]-[M01]-[D01]`, and the calendar they need.

use super::super::Error;
use super::integer::{Case, Form, IntegerPicture};

pub(super) const DAY_MS: i64 = 86_400_000;

#[derive(Debug)]
pub(super) enum Part {
    Literal(String),
    Marker(Marker),
}

#[derive(Debug)]
pub(super) struct Marker {
    pub(super) component: char,
    pub(super) presentation: Presentation,
    pub(super) width_max: Option<usize>,
    /// `t`: the zone zero is written `Z`.
    pub(super) zulu: bool,
    /// Digits that follow at once: exactly so many are read here.
    pub(super) digits_read: Option<usize>,
}

#[derive(Debug)]
pub(super) enum Presentation {
    Name(Case),
    Integer(IntegerPicture),
}

/// Wider fields than any date needs are refused rather than written.
const WIDTH_MAX: usize = 1000;

pub(super) fn parse(picture: &str) -> Result<Vec<Part>, Error> {
    let mut parts: Vec<Part> = Vec::new();
    let mut literal = String::new();
    let mut rest = picture;
    while let Some(open) = rest.find('[') {
        literal.push_str(&rest[..open]);
        rest = &rest[open + 1..];
        if let Some(after) = rest.strip_prefix('[') {
            literal.push('[');
            rest = after;
            continue;
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(
                std::mem::take(&mut literal).replace("]]", "]"),
            ));
        }
        let Some((marker, after)) = rest.split_once(']') else {
            return Err(Error::new(
                "D3135",
                "no matching closing bracket ']' in date/time picture string",
            ));
        };
        let marker = Marker::parse(marker)?;
        limit_previous(parts.last_mut(), &marker);
        parts.push(Part::Marker(marker));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.replace("]]", "]")));
    }
    Ok(parts)
}

/// Where digits follow digits, the width says where the first ones end.
fn limit_previous(previous: Option<&mut Part>, marker: &Marker) {
    if let Some(Part::Marker(before)) = previous
        && let Presentation::Integer(digits) = &before.presentation
        && matches!(marker.presentation, Presentation::Integer(_))
        && !matches!(before.component, 'Z' | 'z')
    {
        before.digits_read = Some(digits.mandatory.max(1));
    }
}

impl Marker {
    fn parse(text: &str) -> Result<Marker, Error> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let component = text.chars().next().unwrap_or(' ');
        let default = match component {
            'Y' | 'M' | 'D' | 'd' | 'W' | 'w' | 'X' | 'x' | 'H' | 'h' | 'f' => "1",
            'F' | 'P' | 'C' | 'E' => "n",
            'm' | 's' => "01",
            'Z' | 'z' => "01:01",
            _ => {
                let message = format!(
                    "unknown component specifier {component:?} in date/time picture string"
                );
                return Err(Error::new("D3132", message));
            }
        };
        let rest = &text[component.len_utf8()..];
        let (modifiers, width) = match rest.rsplit_once(',') {
            Some((modifiers, width)) => (modifiers, width),
            None => (rest, ""),
        };
        let (least, most) = width
            .split_once('-')
            .map_or((width, None), |(l, m)| (l, Some(m)));
        let size = |text: &str| text.parse::<usize>().ok().map(|size| size.min(WIDTH_MAX));
        let (first, second) = match modifiers.chars().last() {
            Some(last @ ('a' | 't' | 'c' | 'o')) if modifiers.chars().count() > 1 => {
                (&modifiers[..modifiers.len() - 1], Some(last))
            }
            Some(_) => (modifiers, None),
            None => (default, None),
        };
        let mut width_max = most.and_then(size);
        let presentation = if first.starts_with('n') {
            Presentation::Name(Case::Lower)
        } else if first.starts_with("Nn") {
            Presentation::Name(Case::Title)
        } else if first.starts_with('N') {
            Presentation::Name(Case::Upper)
        } else {
            let mut digits = IntegerPicture::parse(first)?;
            digits.ordinal |= second == Some('o');
            digits.mandatory = digits
                .mandatory
                .max(size(least).unwrap_or(0))
                .min(WIDTH_MAX);
            if component == 'Y' {
                width_max = limit_year(&mut digits, width_max);
            }
            Presentation::Integer(digits)
        };
        Ok(Marker {
            component,
            presentation,
            width_max,
            zulu: second == Some('t'),
            digits_read: None,
        })
    }
}

/// How many digits a year keeps: what the width says, or the picture with two digits or more.
fn limit_year(digits: &mut IntegerPicture, width_max: Option<usize>) -> Option<usize> {
    if let Some(most) = width_max {
        digits.mandatory = most;
        return Some(most);
    }
    let written = digits.mandatory + digits.optional;
    (written >= 2 && matches!(digits.form, Form::Decimal)).then_some(written)
}

/// A moment of the (proleptic Gregorian) calendar; months from 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) day: i64,
    /// Of the day.
    pub(super) ms: i64,
    /// Since 1970.
    days: i64,
}

/// Days since 1970 of a date. Months and days outside their range lead to other months.
pub(super) fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let months = year * 12 + month - 1;
    let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468 + day - 1
}

impl Moment {
    pub(super) fn new(millis: i64) -> Moment {
        let days = millis.div_euclid(DAY_MS);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Moment {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            ms: millis.rem_euclid(DAY_MS),
            days,
        }
    }

    /// The number that a component stands for.
    pub(super) fn component(&self, component: char) -> i64 {
        let hour = self.ms / 3_600_000;
        match component {
            'Y' => self.year,
            'M' => self.month,
            'D' => self.day,
            'd' => self.days - days_of(self.year, 1, 1) + 1,
            'F' => weekday(self.days),
            'W' => self.week().1,
            'X' => self.week().0,
            'w' => self.month_week().1,
            'x' => (self.month_week().0 - 1).rem_euclid(12) + 1,
            'H' => hour,
            'h' => (hour + 11) % 12 + 1,
            'P' => i64::from(hour >= 12),
            'm' => self.ms / 60_000 % 60,
            's' => self.ms / 1000 % 60,
            'f' => self.ms % 1000,
            _ => 0,
        }
    }

    /// The ISO year and week.
    fn week(&self) -> (i64, i64) {
        let year = [self.year + 1, self.year, self.year - 1];
        let year = year
            .into_iter()
            .find(|year| self.days >= first_week(*year, 1));
        let year = year.unwrap_or(self.year);
        (year, (self.days - first_week(year, 1)) / 7 + 1)
    }

    /// The month to which the week belongs, and its number there.
    fn month_week(&self) -> (i64, i64) {
        let month = [self.month + 1, self.month, self.month - 1];
        let month = month
            .into_iter()
            .find(|month| self.days >= first_week(self.year, *month));
        let month = month.unwrap_or(self.month);
        (month, (self.days - first_week(self.year, month)) / 7 + 1)
    }
}

/// Monday is 1, Sunday 7.
fn weekday(days: i64) -> i64 {
    (days + 3).rem_euclid(7) + 1
}

/// The Monday of the first week that has most of its days in the month.
fn first_week(year: i64, month: i64) -> i64 {
    let first = days_of(year, month, 1);
    let weekday = weekday(first);
    if weekday > 4 {
        first + 8 - weekday
    } else {
        first - (weekday - 1)
    }
}
