// Notifications about finished actions, at the edge of the page.

import { useEffect, useState } from "preact/hooks";
import { perform } from "./api.ts";
import type { Call } from "./calls.tsx";
import { changed } from "./store.ts";

let say: (words: string) => void = () => {};

/** Shows a notification, also to screen readers. */
export const tell = (words: string) => say(words);

export function Told() {
  const [words, setWords] = useState("");
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    say = (words) => {
      clearTimeout(timer);
      setWords(words);
      timer = setTimeout(() => setWords(""), 6000);
    };
    return () => clearTimeout(timer);
  }, []);
  return <div class="told" role="status" aria-live="polite">{words && <p>{words}</p>}</div>;
}

/** Executes a call, shows the result, and reloads. */
export async function carryOut<T>(calls: Call | Call[], words: string | ((result: T) => string)): Promise<T> {
  let result!: T;
  for (const call of [calls].flat()) result = await perform<T>(call);
  tell(typeof words === "string" ? words : words(result));
  changed();
  return result;
}
