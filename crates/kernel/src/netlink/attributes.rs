//! Attributes of protocols that have no types here: connections, nf_tables.

/// NLA_TYPE_MASK: the low bits of an attribute's type.
const TYPE: u16 = 0x3fff;

/// The attributes in a piece of a message: type, value, and both with their header.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head: [u8; 4] = self.0.get(..4)?.try_into().ok()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE;
        let whole = self.0.get(..length)?;
        let value = whole.get(4..)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value, whole))
    }
}
