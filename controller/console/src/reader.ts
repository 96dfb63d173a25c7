// The API reference, for users who have signed in. Redoc is a file of its own: the console does not need it.

import script from "redoc/bundles/redoc.standalone.js?url";

declare const Redoc: { init: (document: unknown, options: object, element: Element) => void };

const element = document.getElementById("reader")!;

function load(path: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const loaded = document.createElement("script");
    loaded.src = path;
    loaded.addEventListener("load", resolve);
    loaded.addEventListener("error", () => reject(new Error(path)));
    document.head.append(loaded);
  });
}

function say(text: string): void {
  const line = document.createElement("p");
  const link = document.createElement("a");
  link.href = "/console/";
  link.textContent = text;
  line.append(link);
  element.replaceChildren(line);
}

async function show(): Promise<void> {
  const who = await fetch("/v1/whoami", { headers: { "x-cps-console": "user" } });
  if (!who.ok) return say("Sign in to read the description of the API. 请先登录。");
  const described = await fetch("/openapi.json");
  await load(script);
  Redoc.init(await described.json(), { disableSearch: true, hideLoading: true, nativeScrollbars: true, sortTagsAlphabetically: false }, element);
}

void show().catch(() => say("The controller cannot be reached. 无法连接控制器。"));
