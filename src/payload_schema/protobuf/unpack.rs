//! Messages to MessagePack.
//!
//! The fields of a message are found first, since they may come in any order, repeated ones in
//! several places, and a message in pieces that are to be read as one; then they are written by
//! their numbers. All of them are found on one stack, so that a message costs no allocation.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::plan::{Field, Key, Kind, Message, Plan, Shape, Wire};
use super::values::{
    Fault, count, is_packable, is_packed, leaf, push_default, push_name, push_number, push_packed,
};
use super::wire::{Cursor, Malformed, Place, Raw};
use crate::payload_schema::{NotUnpacked, Packer, Unpack, Wanted};

#[derive(Debug)]
pub(super) struct Unpacker {
    plan: Arc<Plan>,
    /// Which of the first message's fields are wanted.
    wanted: Fields,
    found: Vec<Found>,
}

/// Fields of a message that are wanted.
#[derive(Debug)]
struct Fields {
    has: Vec<bool>,
    /// The places of those that are never null.
    always: Vec<usize>,
}

/// A field of a message that is being read, by its place among all of them.
#[derive(Debug, Clone, Copy)]
struct Found {
    field: usize,
    raw: Raw,
}

impl Unpacker {
    pub(super) fn new(plan: Arc<Plan>, wanted: &Wanted) -> Self {
        let fields = plan.message(0).map(|root| root.fields.as_slice()).unwrap_or_default();
        let has: Vec<bool> = fields.iter().map(|field| wanted.has(&field.name)).collect();
        let always = plan.message(0).map(|root| root.always.as_slice()).unwrap_or_default();
        let always = always.iter().copied().filter(|at| has.get(*at) == Some(&true)).collect();
        let wanted = Fields { has, always };
        Unpacker { plan, wanted, found: Vec::new() }
    }
}

impl Unpack for Unpacker {
    fn unpack(&mut self, payload: &[u8], out: &mut Packer) -> Result<(), NotUnpacked> {
        // Places have 32 bits.
        let Ok(end) = u32::try_from(payload.len()) else {
            return Err("is more than four gigabytes".into());
        };
        let Some(root) = self.plan.message(0) else {
            return Err("has no descriptor".into());
        };
        self.found.clear();
        let mut walk = Walk { plan: &self.plan, payload, found: &mut self.found };
        let whole = Pieces::One(Place { start: 0, end: end as usize });
        walk.message(root, whole, Some(&self.wanted), out).map_err(|fault| match fault {
            Fault::Malformed => format!("is not a message {}", root.name).into(),
            Fault::Misfit(misfit) => misfit.into(),
        })
    }
}

/// Where a message is: in one place, or in those of several fields that were found.
#[derive(Debug, Clone)]
enum Pieces {
    One(Place),
    Found(Range<usize>),
}

/// Whether fields come by their numbers so far.
struct Order {
    latest: usize,
    is_sorted: bool,
}

/// The fields of a message that are written: those that are never null, and those that were found. It
/// costs nothing that a message may have others.
struct Written<'m> {
    always: &'m [usize],
}

impl Written<'_> {
    /// The place of the next one, and how many at the beginning of `rest` are of it.
    fn next(&mut self, rest: &[Found]) -> Option<(usize, usize)> {
        match (self.always.split_first(), rest.first()) {
            (Some((always, others)), found) if found.is_none_or(|one| one.field >= *always) => {
                self.always = others;
                Some((*always, run(rest, *always)))
            }
            (_, Some(found)) => Some((found.field, run(rest, found.field))),
            (_, None) => None,
        }
    }
}

struct Walk<'w> {
    plan: &'w Plan,
    payload: &'w [u8],
    found: &'w mut Vec<Found>,
}

impl<'w> Walk<'w> {
    fn message(
        &mut self,
        of: &'w Message,
        pieces: Pieces,
        wanted: Option<&'w Fields>,
        out: &mut Packer,
    ) -> Result<(), Fault> {
        if let Pieces::One(place) = &pieces
            && of.is_flat
            && self.in_order(of, *place, wanted, out)?
        {
            return Ok(());
        }
        let base = self.found.len();
        let mut order = Order { latest: 0, is_sorted: true };
        match pieces {
            Pieces::One(place) => self.find(of, place, wanted, &mut order)?,
            Pieces::Found(places) => {
                for at in places {
                    if let Some(found) = self.found.get(at).copied() {
                        self.find(of, found.raw.place(), wanted, &mut order)?;
                    }
                }
            }
        }
        if of.has_oneofs {
            self.settle_oneofs(of, base);
        }
        if !order.is_sorted
            && let Some(own) = self.found.get_mut(base..)
        {
            own.sort_by_key(|found| found.field);
        }
        let end = self.found.len();
        let always = wanted.map_or(of.always.as_slice(), |wanted| &wanted.always);
        out.map_of_any_length(|out| {
            let mut written = Written { always };
            let (mut count, mut next) = (0, base);
            loop {
                let rest = self.found.get(next..end).unwrap_or_default();
                let Some((at, found)) = written.next(rest) else { return Ok::<_, Fault>(count) };
                let run = next..next + found;
                (count, next) = (count + 1, run.end);
                let field = of.fields.get(at).ok_or(Fault::Malformed)?;
                out.name(&field.packed_name);
                self.field(field, run, out)?;
            }
        })?;
        self.found.truncate(base);
        Ok(())
    }

    /// Writes a flat message in one pass, if its fields are in the order of their numbers and none is
    /// repeated, as in what nearly all writers make. Otherwise writes nothing, and returns false.
    fn in_order(
        &mut self,
        of: &'w Message,
        place: Place,
        wanted: Option<&Fields>,
        out: &mut Packer,
    ) -> Result<bool, Fault> {
        let before = out.mark();
        let mut cursor = Cursor::new(self.payload, place);
        let always = wanted.map_or(of.always.as_slice(), |wanted| &wanted.always);
        let mut always = always.iter().copied().peekable();
        let mut is_in_order = true;
        out.map_of_any_length(|out| {
            // What comes before the field of `next` has been written.
            let (mut count, mut next) = (0, 0);
            let absent = |at: usize, out: &mut Packer| {
                let field = of.fields.get(at).ok_or(Fault::Malformed)?;
                out.name(&field.packed_name);
                push_default(&field.kind, out)
            };
            while !cursor.is_at_end() {
                let (number, raw) = cursor.field()?;
                let Some(at) = of.find(number, next) else { continue };
                let Some(field) = of.fields.get(at) else { continue };
                if raw.wire != field.kind.wire()
                    || wanted.is_some_and(|wanted| wanted.has.get(at) != Some(&true))
                {
                    continue;
                }
                if at < next {
                    is_in_order = false;
                    return Ok(count);
                }
                next = at + 1;
                while let Some(earlier) = always.next_if(|earlier| *earlier < at) {
                    absent(earlier, out)?;
                    count += 1;
                }
                always.next_if_eq(&at);
                out.name(&field.packed_name);
                self.value(&field.kind, raw, out)?;
                count += 1;
            }
            for later in always {
                absent(later, out)?;
                count += 1;
            }
            Ok::<_, Fault>(count)
        })?;
        if !is_in_order {
            out.back_to(before);
        }
        Ok(is_in_order)
    }

    /// Finds the fields in a piece of a message. One that is written as another kind is one that
    /// nobody knows.
    #[inline]
    fn find(
        &mut self,
        of: &Message,
        place: Place,
        wanted: Option<&Fields>,
        order: &mut Order,
    ) -> Result<(), Malformed> {
        let mut cursor = Cursor::new(self.payload, place);
        let mut hint = 0;
        while !cursor.is_at_end() {
            let (number, raw) = cursor.field()?;
            let Some(at) = of.find(number, hint) else { continue };
            hint = at + 1;
            let Some(field) = of.fields.get(at) else { continue };
            let fits = match field.shape {
                Shape::Map(_) => raw.wire == Wire::Bytes,
                Shape::Repeated => {
                    raw.wire == field.kind.wire()
                        || raw.wire == Wire::Bytes && is_packable(&field.kind)
                }
                Shape::Plain | Shape::Optional => raw.wire == field.kind.wire(),
            };
            if !fits || wanted.is_some_and(|wanted| wanted.has.get(at) != Some(&true)) {
                continue;
            }
            if field.shape == Shape::Repeated {
                // Most of these come one after another.
                hint = at;
            }
            order.is_sorted &= at >= order.latest;
            order.latest = at;
            self.found.push(Found { field: at, raw });
        }
        Ok(())
    }

    /// Of the members of a oneof the one that came last has a value.
    #[cold]
    fn settle_oneofs(&mut self, of: &Message, base: usize) {
        let oneof = |found: &Found| of.fields.get(found.field).and_then(|field| field.oneof);
        // By oneof: its member, and whether another came before it.
        let mut last: Vec<(u32, usize, bool)> = Vec::new();
        let mut keep: Vec<bool> = Vec::new();
        for found in self.found.get(base..).unwrap_or_default().iter().rev() {
            let Some(oneof) = oneof(found) else {
                keep.push(true);
                continue;
            };
            match last.iter_mut().find(|(other, _, _)| *other == oneof) {
                None => {
                    last.push((oneof, found.field, false));
                    keep.push(true);
                }
                Some((_, field, is_over)) => {
                    *is_over |= *field != found.field;
                    keep.push(!*is_over);
                }
            }
        }
        if keep.contains(&false) {
            let mut keep = keep.into_iter().rev();
            let own = self.found.split_off(base);
            self.found.extend(own.into_iter().filter(|_| keep.next() == Some(true)));
        }
    }

    /// Writes a field's value, by what was found of it.
    fn field(
        &mut self,
        field: &'w Field,
        run: Range<usize>,
        out: &mut Packer,
    ) -> Result<(), Fault> {
        match field.shape {
            Shape::Plain | Shape::Optional => self.single(&field.kind, run, out),
            Shape::Repeated => self.repeated(&field.kind, run, out),
            Shape::Map(key) => self.map(key, &field.kind, run, out),
        }
    }

    /// Writes the value that is last, or all pieces of a message; without any, what stands for it.
    fn single(&mut self, kind: &'w Kind, run: Range<usize>, out: &mut Packer) -> Result<(), Fault> {
        match (kind, run.len()) {
            (Kind::Message(place) | Kind::Group(place), 1..) => match self.plan.message(*place) {
                Some(of) => self.message(of, Pieces::Found(run), None, out),
                None => Err(Fault::Malformed),
            },
            (Kind::Message(_) | Kind::Group(_), 0) => {
                out.null();
                Ok(())
            }
            (
                Kind::Timestamp | Kind::Duration | Kind::Wrapper(_) | Kind::Struct | Kind::List,
                2..,
            ) => {
                let pieces: Vec<u8> = (run.filter_map(|at| self.found.get(at)))
                    .flat_map(|found| found.raw.place().of(self.payload))
                    .copied()
                    .collect();
                let place = Place { start: 0, end: pieces.len() };
                leaf(kind, &pieces, place, out)
            }
            (_, 0) => push_default(kind, out),
            _ => {
                let last = run.end.checked_sub(1).and_then(|at| self.found.get(at)).copied();
                self.value(kind, last.ok_or(Fault::Malformed)?.raw, out)
            }
        }
    }

    /// Writes one value.
    #[inline]
    fn value(&mut self, kind: &'w Kind, raw: Raw, out: &mut Packer) -> Result<(), Fault> {
        match kind {
            Kind::Number(number) => push_number(*number, raw.number(), out),
            Kind::Text => out.text(raw.place().of(self.payload)),
            Kind::Bytes => out.bytes_value(raw.place().of(self.payload)),
            Kind::Enum(names) => push_name(names, raw.number(), out),
            Kind::Message(place) | Kind::Group(place) => {
                let of = self.plan.message(*place).ok_or(Fault::Malformed)?;
                return self.message(of, Pieces::One(raw.place()), None, out);
            }
            _ => return leaf(kind, self.payload, raw.place(), out),
        }
        Ok(())
    }

    fn repeated(
        &mut self,
        kind: &'w Kind,
        run: Range<usize>,
        out: &mut Packer,
    ) -> Result<(), Fault> {
        let mut len = 0;
        for found in self.found.get(run.clone()).unwrap_or_default() {
            len += match is_packed(kind, found.raw) {
                true => count(kind, found.raw.place().of(self.payload))?,
                false => 1,
            };
        }
        out.array(len, |out| {
            for at in run {
                let Some(Found { raw, .. }) = self.found.get(at).copied() else { continue };
                match is_packed(kind, raw) {
                    true => push_packed(kind, self.payload, raw.place(), out)?,
                    false => self.value(kind, raw, out)?,
                }
                // A name may be longer than the number that stands for it.
                out.check()?;
            }
            Ok(())
        })
    }

    /// A map is a list of its keys and values, as Polars has it. Of those with the same key the last
    /// one counts.
    fn map(
        &mut self,
        key: Key,
        kind: &'w Kind,
        run: Range<usize>,
        out: &mut Packer,
    ) -> Result<(), Fault> {
        let mut entries = Vec::with_capacity(run.len());
        for found in self.found.get(run).unwrap_or_default() {
            entries.push(self.entry(key, kind, found.raw.place())?);
        }
        if entries.len() > 1 {
            let mut seen = HashSet::with_capacity(entries.len());
            let mut keep: Vec<bool> =
                entries.iter().rev().map(|(key, _)| seen.insert(key.as_slice())).collect();
            if keep.contains(&false) {
                keep.reverse();
                let mut keep = keep.into_iter();
                entries.retain(|_| keep.next() == Some(true));
            }
        }
        out.array(entries.len(), |out| {
            for (key, values) in entries {
                out.map(2, |out| {
                    out.packed(KEY);
                    out.packed(&key);
                    out.packed(VALUE);
                    self.value_of_entry(kind, values, out)
                })?;
            }
            Ok(())
        })
    }

    /// Writes the value of a map's entry: one that is not written is its kind's.
    fn value_of_entry(
        &mut self,
        kind: &'w Kind,
        values: Vec<Raw>,
        out: &mut Packer,
    ) -> Result<(), Fault> {
        let base = self.found.len();
        self.found.extend(values.into_iter().map(|raw| Found { field: 0, raw }));
        let end = self.found.len();
        match kind {
            Kind::Message(place) if end == base => {
                let of = self.plan.message(*place).ok_or(Fault::Malformed)?;
                self.message(of, Pieces::One(Place { start: 0, end: 0 }), None, out)?;
            }
            _ => self.single(kind, base..end, out)?,
        }
        self.found.truncate(base);
        Ok(())
    }

    /// The packed key of an entry, and the pieces of its value.
    fn entry(&self, key: Key, kind: &Kind, place: Place) -> Result<(Vec<u8>, Vec<Raw>), Fault> {
        let mut cursor = Cursor::new(self.payload, place);
        let wire = match key {
            Key::Text => Wire::Bytes,
            Key::Number(number) => number.wire(),
        };
        let (mut name, mut values) = (None, Vec::new());
        while !cursor.is_at_end() {
            match cursor.field()? {
                (1, raw) if raw.wire == wire => name = Some(raw),
                (2, raw) if raw.wire == kind.wire() => values.push(raw),
                _ => {}
            }
        }
        let mut packed = Packer::new(usize::MAX);
        match key {
            Key::Text => {
                packed.text(name.map(|raw| raw.place().of(self.payload)).unwrap_or_default());
            }
            Key::Number(number) => push_number(number, name.map_or(0, Raw::number), &mut packed),
        }
        Ok((packed.into_bytes(), values))
    }
}

/// The names of what an entry of a map has, packed.
const KEY: &[u8] = b"\xa3key";
const VALUE: &[u8] = b"\xa5value";

/// How many at the beginning of these are of a field.
#[inline]
fn run(found: &[Found], field: usize) -> usize {
    found.iter().take_while(|one| one.field == field).count()
}
