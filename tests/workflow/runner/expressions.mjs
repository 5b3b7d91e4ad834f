// Values of workflow tokens and conditions, by GitHub's evaluator.

import { Evaluator, Lexer, Parser, data } from './packages.mjs';

/// The text of a token; null is the empty text.
export function text(token, contexts) {
  const value = evaluate(token, contexts);
  if (!value.primitive) throw new Error(`'${token}' is no text but a list or a mapping`);
  return value.coerceString();
}

/// The number that a token stands for; `absent` where there is no token.
export function number(token, contexts, absent) {
  if (!token) return absent;
  const value = evaluate(token, contexts).number();
  if (Number.isNaN(value)) throw new Error(`'${token}' is no number`);
  return value;
}

/// What `continue-on-error` says; false where there is no token.
export function boolean(token, contexts) {
  if (!token) return false;
  const value = text(token, contexts);
  if (value !== 'true' && value !== 'false') throw new Error(`'${token}' is neither true nor false`);
  return value === 'true';
}

/// The texts of a mapping's values, by key; empty where there is no token.
export function texts(mapping, contexts) {
  const values = {};
  for (const { key, value } of mapping ?? []) values[text(key, contexts)] = text(value, contexts);
  return values;
}

/// Whether a condition holds. `status` has the status functions, which exist in conditions only.
export function holds(expression, contexts, status) {
  const value = evaluateExpression(expression, contexts, status);
  return !value.primitive || Boolean(JSON.parse(JSON.stringify(value, data.replacer)));
}

function evaluate(token, contexts) {
  return token.isExpression
    ? evaluateExpression(token.expression, contexts, {})
    : new data.StringData(token.toString());
}

function evaluateExpression(expression, contexts, functions) {
  const { tokens } = new Lexer(expression).lex();
  const known = Object.entries(functions).map(([name, call]) => ({
    name,
    minArgs: 0,
    maxArgs: 0,
    call: () => new data.BooleanData(call()),
  }));
  const tree = new Parser(tokens, Object.keys(contexts), known).parse();
  const values = Object.entries(contexts).map(([key, value]) => ({ key, value: toData(value) }));
  return new Evaluator(
    tree,
    new data.Dictionary(...values),
    new Map(known.map((it) => [it.name, it])),
  ).evaluate();
}

function toData(value) {
  return JSON.parse(JSON.stringify(value ?? null), data.reviver);
}
