// Shown in place of a page that cannot be rendered, so that not everything is blank.

import { Component, type ComponentChildren } from "preact";
import { t } from "./i18n.ts";
import { Heading } from "./ui.tsx";

interface Props {
  /** The page's address: another page may be rendered again. */
  at: string;
  children: ComponentChildren;
}

export class Boundary extends Component<Props, { failed: boolean }> {
  state = { failed: false };

  static getDerivedStateFromError() {
    return { failed: true };
  }

  componentDidCatch(error: unknown): void {
    console.error(error);
  }

  componentDidUpdate(before: Props): void {
    if (this.state.failed && before.at !== this.props.at) this.setState({ failed: false });
  }

  render({ children }: Props) {
    if (!this.state.failed) return children;
    return (
      <div class="stack">
        <Heading title={t("error.broken")} />
        <div class="row">
          <button type="button" class="button" onClick={() => location.reload()}>{t("error.reload")}</button>
          <a class="button" href="#/">{t("error.start")}</a>
        </div>
      </div>
    );
  }
}
