//! Which texts are allowed: alphabets and lengths (PROTOCOL 1, "Texts").

use crate::wire::Fault;

/// Characters of one kind of text.
pub struct TextRule {
    class: u8,
    least: usize,
    most: usize,
    said: &'static str,
}

const ACCOUNT_CLASS: u8 = 1;
const CLIENT_ID_CLASS: u8 = 2;
const SYMBOL_CLASS: u8 = 4;
const PRINTABLE_CLASS: u8 = 8;

/// Which classes each character belongs to.
const CLASSES: [u8; 256] = {
    const fn add(mut classes: [u8; 256], characters: &[u8], class: u8) -> [u8; 256] {
        let mut at = 0;
        while at < characters.len() {
            classes[characters[at] as usize] |= class;
            at += 1;
        }
        classes
    }
    let mut classes = [0; 256];
    let mut character = b'!';
    while character <= b'~' {
        classes[character as usize] |= PRINTABLE_CLASS;
        if character.is_ascii_uppercase() || character.is_ascii_digit() {
            classes[character as usize] |= ACCOUNT_CLASS | CLIENT_ID_CLASS | SYMBOL_CLASS;
        }
        if character.is_ascii_lowercase() {
            classes[character as usize] |= ACCOUNT_CLASS | CLIENT_ID_CLASS;
        }
        character += 1;
    }
    classes = add(classes, b"._:@-", ACCOUNT_CLASS);
    classes = add(classes, b".:/_-", CLIENT_ID_CLASS);
    add(classes, b"._-", SYMBOL_CLASS)
};

/// An account.
pub const ACCOUNT: TextRule = TextRule { class: ACCOUNT_CLASS, least: 1, most: 32, said: "A-Za-z0-9._:@-" };
/// An account, or everybody.
pub const ACCOUNT_OR_EMPTY: TextRule = TextRule { least: 0, ..ACCOUNT };
/// A client order id.
pub const CLIENT_ID: TextRule = TextRule { class: CLIENT_ID_CLASS, least: 1, most: 36, said: "A-Za-z0-9.:/_-" };
/// A client order id, or none.
pub const CLIENT_ID_OR_EMPTY: TextRule = TextRule { least: 0, ..CLIENT_ID };
/// The symbol of an instrument.
pub const SYMBOL: TextRule = TextRule { class: SYMBOL_CLASS, least: 1, most: 20, said: "A-Z0-9._-" };
/// Who gives an operator's command; the name of a node.
pub const ACTOR: TextRule = TextRule { class: PRINTABLE_CLASS, least: 1, most: 64, said: "!-~" };

impl TextRule {
    /// Whether a text follows the rule.
    #[inline]
    pub fn allows(&self, text: &[u8]) -> bool {
        (self.least..=self.most).contains(&text.len())
            && text.iter().fold(self.class, |class, &character| class & CLASSES[character as usize]) != 0
    }

    /// Says what is wrong with a text that the rule does not allow.
    #[cold]
    pub fn refuse(&self, name: &str, text: &[u8]) -> Fault {
        let shown: String = String::from_utf8_lossy(text).chars().take(80).collect();
        Fault::new(format!("{name} {shown:?} is not {} to {} characters of {}", self.least, self.most, self.said))
    }
}
