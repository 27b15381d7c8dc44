// The texts of the scripts in the language of the page: a script beside this one gives them, except in English.

let texts = {};
let form = (n) => Number(n !== 1);

/** Takes the texts by their English form, and the rule that says which plural form a number takes. */
export function speak(translated, plural) {
  [texts, form] = [translated, plural];
}

const fill = (text, values) => text.replace(/%\((\w+)\)s/g, (_, name) => values[name]);

/** The text in the language of the page; `%(name)s` stands for a value. */
export function gettext(text, values = {}) {
  return fill(texts[text] || text, values);
}

/** The same in the form that this count takes. */
export function ngettext(one, many, count, values = {}) {
  return fill((texts[one] || [one, many])[form(count)], values);
}
