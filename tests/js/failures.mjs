// The API's error object is a member of the SDK's exception, or what the SDK hands out itself;
// Anthropic's has a type, which stands for the code, and lies in an object of its own.
export function fail(seen, error) {
  const found = error.error ?? error.data?.error ?? error;
  const { code, type, message } = found.error ?? found;
  seen.error = `${code ?? type}: ${message}`;
  seen.status = error.status ?? error.statusCode ?? null;
}
