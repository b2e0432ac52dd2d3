//! Deliveries that the server counts and nobody saw.

use crate::client::Session;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::resp::Membership;

/// Entries in one script, which keeps other clients waiting.
const IDS: usize = 200;

/// Lowers the delivery counts of entries that are this consumer's still. ARGV: group, consumer, IDs
/// with counts. JUSTID leaves the count at what RETRYCOUNT says. The idle time starts again: Redis 8.10
/// keeps pending entries in the order of their times, and to keep one walks past all that are younger,
/// which takes 40 ms for each entry where 100,000 are.
const WRITE_BACK: &str = r"
local key, group, consumer = KEYS[1], ARGV[1], ARGV[2]
for i = 3, #ARGV, 2 do
  local id, count = ARGV[i], ARGV[i + 1]
  local found = redis.pcall('XPENDING', key, group, id, id, 1, consumer)
  if found.err then
    return found
  end
  local pending = found[1]
  if pending and pending[4] > tonumber(count) then
    redis.call('XCLAIM', key, group, consumer, 0, id, 'IDLE', 0, 'RETRYCOUNT', count, 'JUSTID')
  end
end
return 0
";

/// Tells the server how often entries have really been handed out, where it counts more: replies
/// that were lost count too. What has become another consumer's stays as it is, so this may be
/// repeated. A script (EVAL) of XPENDING and XCLAIM.
pub(super) async fn write_back(
    session: &mut Session,
    member: Membership<'_>,
    counts: &[(EntryId, u64)],
) -> Result<()> {
    for counts in counts.chunks(IDS) {
        let pairs = counts.iter();
        let arguments: Vec<Vec<u8>> = pairs
            .flat_map(|(id, count)| [id.to_string().into_bytes(), count.to_string().into_bytes()])
            .collect();
        session.value(&member.script(WRITE_BACK, &[], &arguments)).await?;
    }
    Ok(())
}
