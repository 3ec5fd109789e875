#!/usr/bin/env bash
# Prints docs/keys.md: the introduction in docs/keys.intro.md, and one section per kind of key: worked examples from examples/keys, with
# the verdicts that `waypost lint` gives them, and the fields, from the JSON Schema that the types generate. `make check` compares.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
waypost="$CARGO_TARGET_DIR/debug/waypost"

# lint exits 3 where it refuses something, as it should here.
findings=$("$waypost" lint -o json examples/keys 2>/dev/null || [ $? -eq 3 ])

# The examples of one kind, each with its value and what the verdict says.
examples() {
  printf '\nWorked examples; what stands behind a key is its verdict:\n'
  find "examples/keys/$1" -name '*.json' | sort | while read -r file; do
    key="keys/${file#examples/keys/}"
    key="${key%.json}"
    printf '\n```\nwaypost/%s\n%s\n```\n\n' "${key#keys/}" "$(cat "$file")"
    jq -r --arg key "$key" '
      [.[] | select(.key == $key) | .conditions[] | "- `\(.type)` is \(.status), `\(.reason)`: \(.message)"]
      | if length == 0 then "- `Accepted` is True." else .[] end' <<<"$findings"
  done
}

cat docs/keys.intro.md
for kind in listener:listeners/NAME route:routes/NAME backend:backends/NAME certificate:certificates/NAME endpoint:endpoints/BACKEND/ID; do
  schema=$("$waypost" lint --schema "${kind%%:*}")
  printf '\n## `waypost/%s`\n' "${kind#*:}"
  name="${kind#*:}"
  examples "${name%%/*}"
  jq -r '
    def link: sub("#/\\$defs/"; "") | "[\(.)](#\(ascii_downcase))";
    def kind:
      if .["$ref"] then .["$ref"] | link
      elif .anyOf then [.anyOf[] | select(.type != "null") | kind] | join(" or ")
      elif .allOf then [.allOf[] | kind] | join(" and ")
      elif .enum then [.enum[] | tojson | "`\(.)`"] | join(", ")
      elif .const then "`\(.const | tojson)`"
      elif .type == "array" then "list of " + (.items // {} | kind)
      elif .type == "object" and .additionalProperties and (.properties | not) then "map of " + (.additionalProperties | if type == "object" then kind else "anything" end)
      elif (.type | type) == "array" then [.type[] | select(. != "null")] | join(" or ")
      else .type // "anything" end;
    def one_line: gsub("\n\n"; "<br>") | gsub("\n"; " ") | gsub("\\|"; "\\|");
    def fields:
      (.required // []) as $required
      | "\n| field | what | default | meaning |\n|---|---|---|---|",
        (.properties | to_entries[] | "| `\(.key)`\(if [.key] | inside($required) then " (required)" else "" end) | \(.value | kind) | \(if .value | has("default") then .value.default | tojson | "`\(.)`" else "" end) | \(.value.description // "" | one_line) |");
    def described: "\n" + (.description // "" | gsub("\n"; " "));
    described, (if .properties then fields elif .anyOf[0].properties? then (.anyOf[0] | fields) else empty end),
    ((.["$defs"] // {}) | to_entries[] | "\n### \(.key)", (.value |
      if .properties then described, fields
      elif .oneOf then described, "", (.oneOf[] | "- `\(.const // (.enum // [])[0] | tojson)`: \(.description // "" | gsub("\n"; " "))")
      else described, "\n" + (kind | (.[0:1] | ascii_upcase) + .[1:]) + "." end))
  ' <<<"$schema"
done
