//! The Huffman code of HPACK (RFC 7541 appendix B). It is canonical, so that the lengths of its codes say all of it: among
//! codes of one length the symbols follow each other, and longer codes come behind shorter ones.

/// The length of each byte's code, in bits.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Of the longest code. The last one of these means the end of a text and stands in none.
const LONGEST: usize = 30;
/// Codes up to this length are found by one look.
const SHORT: u32 = 8;

/// What the lengths say.
struct Codes {
    /// Bytes in the order of their codes.
    symbols: [u8; 256],
    /// By length: the first code that is longer, as the first bits of 32; and what is added to a code for its symbol's place.
    beyond: [u32; LONGEST + 1],
    place: [u32; LONGEST + 1],
    /// By the first bits: the length of the code, or 0 of one that is longer, and its byte.
    short: [(u8, u8); 1 << SHORT],
}

const CODES: Codes = codes();

const fn codes() -> Codes {
    let mut codes =
        Codes { symbols: [0; 256], beyond: [0; LONGEST + 1], place: [0; LONGEST + 1], short: [(0, 0); 1 << SHORT] };
    let (mut code, mut placed, mut length) = (0u32, 0usize, 1usize);
    while length <= LONGEST {
        code <<= 1;
        codes.place[length] = (placed as u32).wrapping_sub(code);
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                codes.symbols[placed] = symbol as u8;
                if length <= SHORT as usize {
                    let spare = SHORT - length as u32;
                    let mut bits = 0;
                    while bits < 1 << spare {
                        codes.short[((code << spare) | bits) as usize] = (length as u8, symbol as u8);
                        bits += 1;
                    }
                }
                code += 1;
                placed += 1;
            }
            symbol += 1;
        }
        // Codes are shorter than 32 bits, and the last of the longest ones is left over.
        codes.beyond[length] = code << (32 - length as u32);
        length += 1;
    }
    codes
}

/// The text of a code; `None` where it is none, or ends in anything but up to seven bits 1 (RFC 7541 section 5.2).
pub(super) fn decode(code: &[u8]) -> Option<Vec<u8>> {
    // The shortest codes have five bits.
    let mut text = Vec::with_capacity(code.len() * 8 / 5);
    let mut bytes = code.iter();
    // The bits that come next, from the highest on.
    let (mut bits, mut count) = (0u64, 0u32);
    loop {
        while count <= 56
            && let Some(byte) = bytes.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let (length, symbol) = first(bits);
        if length > count {
            let padding = u64::MAX.checked_shl(64 - count).unwrap_or(0);
            return (count < 8 && bits == padding).then_some(text);
        }
        text.push(symbol?);
        bits <<= length;
        count -= length;
    }
}

/// The length of the first code, and its symbol if it has one.
fn first(bits: u64) -> (u32, Option<u8>) {
    let (length, symbol) = CODES.short[(bits >> (64 - SHORT)) as usize];
    if length > 0 {
        return (u32::from(length), Some(symbol));
    }
    let word = (bits >> 32) as u32;
    for length in SHORT as usize + 1..=LONGEST {
        if word < CODES.beyond[length] {
            let place = (word >> (32 - length)).wrapping_add(CODES.place[length]);
            return (length as u32, CODES.symbols.get(place as usize).copied());
        }
    }
    (LONGEST as u32, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The other way, bit by bit.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut order: Vec<u8> = (0..=255).collect();
        order.sort_by_key(|symbol| (LENGTHS[usize::from(*symbol)], *symbol));
        let (mut codes, mut code, mut length) = ([0u32; 256], 0u32, 0);
        for symbol in order {
            code <<= LENGTHS[usize::from(symbol)] - std::mem::replace(&mut length, LENGTHS[usize::from(symbol)]);
            codes[usize::from(symbol)] = code;
            code += 1;
        }
        let bits = text.iter().flat_map(|symbol| {
            let (code, length) = (codes[usize::from(*symbol)], LENGTHS[usize::from(*symbol)]);
            (0..length).rev().map(move |bit| code >> bit & 1 == 1)
        });
        let mut bits: Vec<bool> = bits.collect();
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    #[test]
    fn rfc7541_appendix_c_and_what_is_no_code() {
        for (code, text) in [
            (&[][..], Some("")),
            // Appendix C.4 and C.6.
            (b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", Some("www.example.com")),
            (b"\xa8\xeb\x10\x64\x9c\xbf", Some("no-cache")),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", Some("custom-key")),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", Some("custom-value")),
            (b"\x64\x02", Some("302")),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
                Some("Mon, 21 Oct 2013 20:13:21 GMT"),
            ),
            // A whole byte of padding, padding of zeros, a code cut short, the end of a text.
            (b"\x64\x02\xff", None),
            (b"\x18", None),
            (b"\xff", None),
            (b"\xfe", None),
            (b"\xff\xff\xff\xff", None),
            (b"\xff\xff\xff\xfc", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(decode(code), text.map(|text| text.as_bytes().to_vec()), "{}", code.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decode(&encode(&text)), Some(text));
        }

        #[test]
        fn what_is_decoded_has_one_code(code in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some(text) = decode(&code) {
                prop_assert_eq!(encode(&text), code);
            }
        }
    }
}
