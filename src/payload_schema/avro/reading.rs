//! Payloads to MessagePack: which schema a payload is of, and the steps for it.

use std::collections::HashMap;
use std::sync::Arc;

use super::AvroFraming;
use super::container::{Container, open};
use super::known::{Known, document};
use super::resolve::Plan;
use super::schema::Parsed;
use crate::decode::Misfit;
use crate::payload_schema::{NotUnpacked, Packer, Unpack, Wanted};

/// Reads the payloads of one stream.
#[derive(Debug)]
pub(super) struct Reading {
    known: Arc<Known>,
    wanted: Wanted,
    /// Those of the latest payload, and what it called its schema.
    latest: Option<(u64, Arc<Plan>)>,
    plans: HashMap<u64, Arc<Plan>>,
    /// By the schemas in containers.
    contained: HashMap<Box<[u8]>, Arc<Plan>>,
    scratch: Vec<u8>,
    inflated: Vec<u8>,
}

/// How many plans are kept: a stream has few schemas, and an attacker's are not to fill the memory.
const MOST: usize = 256;

/// What a container's schema may take.
const LARGEST: usize = 1024 * 1024;

impl Unpack for Reading {
    fn unpack(&mut self, payload: &[u8], out: &mut Packer) -> Result<(), NotUnpacked> {
        let (name, datum) = match self.known.framing {
            AvroFraming::None => (0, payload),
            AvroFraming::SingleObject => single_object(payload)?,
            AvroFraming::Confluent => self.confluent(payload)?,
            AvroFraming::Container => return Ok(self.container(payload, out)?),
        };
        let plan = match &self.latest {
            Some((latest, plan)) if *latest == name => plan,
            _ => {
                let plan = self.plan(name)?;
                &self.latest.insert((name, plan)).1
            }
        };
        Ok(plan.unpack(datum, &mut self.scratch, out)?)
    }
}

impl Reading {
    pub(super) fn new(known: Arc<Known>, wanted: Wanted) -> Self {
        Reading {
            known,
            wanted,
            latest: None,
            plans: HashMap::new(),
            contained: HashMap::new(),
            scratch: Vec::new(),
            inflated: Vec::new(),
        }
    }

    fn confluent<'p>(&self, payload: &'p [u8]) -> Result<(u64, &'p [u8]), Misfit> {
        let Some((&[0, a, b, c, d], datum)) = payload.split_first_chunk() else {
            return Err("has no Confluent header".into());
        };
        let id = u32::from_be_bytes([a, b, c, d]);
        match (&self.known.one, self.known.schema_id) {
            (Some(_), Some(expected)) if id != expected => {
                Err(format!("has the schema ID {id}, not {expected}").into())
            }
            (Some(_), _) => Ok((0, datum)),
            (None, _) => Ok((id.into(), datum)),
        }
    }

    fn container(&mut self, payload: &[u8], out: &mut Packer) -> Result<(), Misfit> {
        let mut inflated = std::mem::take(&mut self.inflated);
        let opened = open(payload, out.most(), &mut inflated);
        let unpacked = opened.and_then(|Container { schema, datum }| {
            let plan = match self.contained.get(schema) {
                Some(plan) => Arc::clone(plan),
                None => self.plan_contained(schema)?,
            };
            plan.unpack(datum, &mut self.scratch, out)
        });
        // A large one takes no memory once it is read.
        inflated.clear();
        inflated.shrink_to(LARGEST);
        self.inflated = inflated;
        unpacked
    }

    #[cold]
    fn plan_contained(&mut self, schema: &[u8]) -> Result<Arc<Plan>, Misfit> {
        let text = std::str::from_utf8(schema).ok().filter(|_| schema.len() <= LARGEST);
        let parsed = document(text.ok_or("has an Avro container without a readable schema")?);
        let parsed = parsed.map_err(|why| format!("has an Avro container whose schema {why}"))?;
        let plan = self.resolve(&parsed)?;
        if self.contained.len() >= MOST / 8 {
            self.contained.clear();
        }
        self.contained.insert(schema.into(), Arc::clone(&plan));
        Ok(plan)
    }

    #[cold]
    fn plan(&mut self, name: u64) -> Result<Arc<Plan>, NotUnpacked> {
        if let Some(plan) = self.plans.get(&name) {
            return Ok(Arc::clone(plan));
        }
        let known = Arc::clone(&self.known);
        let writer = match (known.framing, &known.one) {
            (AvroFraming::SingleObject, _) => {
                known.of_fingerprint(name).cloned().ok_or_else(|| {
                    format!("has the Avro fingerprint {name:016x}, which none of the schemas has")
                })?
            }
            (_, Some(one)) => Arc::clone(one),
            (_, None) => known.of_id(u32::try_from(name).unwrap_or_default())?,
        };
        let plan = self.resolve(&writer)?;
        if self.plans.len() >= MOST {
            self.plans.clear();
        }
        self.plans.insert(name, Arc::clone(&plan));
        Ok(plan)
    }

    fn resolve(&self, writer: &Arc<Parsed>) -> Result<Arc<Plan>, Misfit> {
        let reader = self.known.reader.as_ref().unwrap_or(writer);
        let plan = Plan::new(writer, reader, &self.wanted);
        match plan.contradiction() {
            Some(why) => Err(why.into()),
            None => Ok(Arc::new(plan)),
        }
    }
}

/// The fingerprint behind the two bytes that mark a single object.
fn single_object(payload: &[u8]) -> Result<(u64, &[u8]), Misfit> {
    let marked = payload.strip_prefix(b"\xc3\x01").and_then(|rest| rest.split_first_chunk());
    let (print, datum) = marked.ok_or("has no Avro single-object header")?;
    Ok((u64::from_le_bytes(*print), datum))
}
