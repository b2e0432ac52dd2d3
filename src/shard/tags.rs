//! The tags of shards, which never change: what they say is where a key is.
//!
//! CRC16 is linear, so that numbers alone behind one prefix fall into few slots. The letters behind each
//! number were searched for, so that the first N tags are spread evenly over the slots, whatever N and
//! however many nodes have equal parts of the slots.

/// The most shards of a stream.
pub const MOST_SHARDS: usize = TAGS.len();

/// The tag of each shard: `{0-dnh}` in `events:{0-dnh}`.
pub(super) const TAGS: [&str; 256] = [
    "0-dnh", "1-cep", "2-blj", "3-rko", "4-feu", "5-anm", "6-hno", "7-abb", "8-bkr", "9-cng",
    "10-hqh", "11-gsh", "12-aqy", "13-fkc", "14-bsm", "15-cgz", "16-iwy", "17-azt", "18-atb",
    "19-hxo", "20-fks", "21-aqi", "22-mib", "23-dtm", "24-coc", "25-fwy", "26-gkg", "27-iye",
    "28-ttp", "29-ytp", "30-dqi", "31-czq", "32-eij", "33-dpn", "34-ahx", "35-alm", "36-oeg",
    "37-aga", "38-akj", "39-edo", "40-qsu", "41-cdw", "42-czl", "43-eqr", "44-ber", "45-htm",
    "46-cut", "47-gzq", "48-ehu", "49-azg", "50-gbt", "51-nxf", "52-awq", "53-ezw", "54-evc",
    "55-fmg", "56-ddf", "57-iry", "58-dne", "59-aqb", "60-bcu", "61-dhk", "62-ire", "63-dux",
    "64-exh", "65-gmt", "66-qnh", "67-cmv", "68-bfn", "69-cvi", "70-flb", "71-hoj", "72-ecs",
    "73-heh", "74-chz", "75-fgq", "76-gyr", "77-hhs", "78-fap", "79-fem", "80-brv", "81-cbq",
    "82-hbn", "83-anc", "84-bng", "85-hrk", "86-fyb", "87-hzj", "88-nxd", "89-epr", "90-qjt",
    "91-amq", "92-bfu", "93-atr", "94-fmi", "95-bcb", "96-hsw", "97-ajh", "98-bpq", "99-cud",
    "100-ate", "101-hxh", "102-mlc", "103-jra", "104-edq", "105-ese", "106-fox", "107-aag",
    "108-alm", "109-dcf", "110-bow", "111-qkz", "112-bvj", "113-gya", "114-dnj", "115-agr",
    "116-dfk", "117-hry", "118-dlh", "119-hxz", "120-fkx", "121-nut", "122-gfw", "123-fcb",
    "124-jty", "125-grj", "126-qqv", "127-lag", "128-fau", "129-gdh", "130-cjy", "131-dai",
    "132-cqq", "133-kqg", "134-faq", "135-agr", "136-aoh", "137-cud", "138-hfm", "139-atz",
    "140-iee", "141-atq", "142-nsc", "143-cbi", "144-qqw", "145-dgf", "146-ffb", "147-nwv",
    "148-fla", "149-kpx", "150-cpb", "151-chn", "152-bat", "153-ciz", "154-owt", "155-pto",
    "156-nqe", "157-hgd", "158-lrp", "159-cla", "160-bgz", "161-dhp", "162-fcv", "163-hfm",
    "164-bja", "165-dti", "166-ztk", "167-ety", "168-ggm", "169-cyn", "170-cpl", "171-cdy",
    "172-bso", "173-csh", "174-img", "175-dwm", "176-bmu", "177-hvh", "178-cfv", "179-fdf",
    "180-jze", "181-dia", "182-orl", "183-ekr", "184-eog", "185-ivn", "186-bhc", "187-guk",
    "188-jkx", "189-aft", "190-evm", "191-oze", "192-uyv", "193-hly", "194-ebo", "195-drh",
    "196-ffd", "197-bbi", "198-bmk", "199-qsh", "200-svl", "201-mze", "202-irc", "203-fey",
    "204-eku", "205-aaj", "206-bhs", "207-dqn", "208-arq", "209-ezm", "210-rtl", "211-arn",
    "212-cxt", "213-esj", "214-cvx", "215-dee", "216-bto", "217-kfx", "218-eqa", "219-aqp",
    "220-nog", "221-kuz", "222-ebj", "223-eev", "224-bvk", "225-nul", "226-eqo", "227-jww",
    "228-pko", "229-anc", "230-mne", "231-miy", "232-bsx", "233-dcf", "234-hrp", "235-jnc",
    "236-fao", "237-gep", "238-bhy", "239-gcb", "240-hjw", "241-ejw", "242-dcm", "243-mod",
    "244-vtn", "245-gnr", "246-cje", "247-ach", "248-nir", "249-enx", "250-dhv", "251-gvh",
    "252-qkp", "253-bdq", "254-nug", "255-dms",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::client::slot_of;

    #[test]
    fn each_begins_with_its_number() {
        for (number, tag) in TAGS.iter().enumerate() {
            let (digits, letters) = tag.split_once('-').unwrap();
            assert_eq!(digits, number.to_string());
            assert!(
                letters.bytes().all(|letter| letter.is_ascii_lowercase()) && letters.len() == 3
            );
        }
    }

    #[test]
    fn the_first_of_them_are_spread_evenly_over_the_nodes() {
        let slots: Vec<usize> = TAGS.iter().map(|tag| slot_of(tag.as_bytes()).into()).collect();
        assert_eq!(slots.iter().collect::<HashSet<_>>().len(), TAGS.len());
        for shards in 1..=TAGS.len() {
            for nodes in
                [2, 3, 4, 5, 6, 8, 9, 10, 12, 16].into_iter().filter(|nodes| *nodes <= shards)
            {
                let mut own = vec![0; nodes];
                slots[..shards].iter().for_each(|slot| own[slot * nodes / 16_384] += 1);
                let most = *own.iter().max().unwrap();
                // Never more than one above what is best, and for few shards the best.
                let over = usize::from(shards > 16);
                assert!(most <= shards.div_ceil(nodes) + over, "{shards} on {nodes}: {own:?}");
            }
        }
    }
}
