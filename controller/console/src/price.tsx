// The price of a bandwidth, beside its field.

import { get, type Prices } from "./api.ts";
import { money, t } from "./i18n.ts";
import { useLoaded } from "./store.ts";

/** Hours of a month in monthly prices: 30 days. */
const MONTH_H = 720;

export const usePrices = () => useLoaded("prices", (background) => get<Prices>("/v1/prices", background), undefined, 0);

/** The price of an hour; undefined if there is none. */
export function perHour({ prices }: Prices, regions: [string, string], bandwidth: number): number | undefined {
  const pair = [...regions].sort().join();
  const own = prices.find((price) => price.regions !== null && [...price.regions].sort().join() === pair);
  const found = own ?? prices.find((price) => price.regions === null);
  if (!found) return undefined;
  let below = 0;
  let sum = 0;
  for (const { upToMbit, perMbitHour } of found.tiers) {
    const top = Math.min(upToMbit ?? bandwidth, bandwidth);
    sum += Math.max(0, top - below) * Number(perMbitHour);
    below = Math.max(below, top);
  }
  return sum;
}

export function Price({ regions, bandwidth }: { regions: [string, string]; bandwidth: number }) {
  const { value } = usePrices();
  if (!value || !(bandwidth > 0)) return null;
  const hour = perHour(value, regions, bandwidth);
  if (hour === undefined) return <p class="quiet">{t("price.none")}</p>;
  return <p>{t("price.is", { hour: money(hour, value.currency), month: money(hour * MONTH_H, value.currency) })}</p>;
}
