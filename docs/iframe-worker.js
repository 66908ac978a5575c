// The search runs in a worker, and a page that was opened from a file may start none: it gets a hidden
// frame in its place. By this name mkdocs-material's plugin "offline" finds it, and fetches no other.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.body.appendChild(document.createElement("iframe"))
      frame.hidden = true
      const inside = (this.inside = frame.contentWindow)
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      this.ready = new Promise((done) => {
        const script = inside.document.createElement("script")
        script.src = new URL(url, location)
        script.onload = done
        inside.document.body.append(script)
      })
    }
    async postMessage(data) {
      await this.ready
      this.inside.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }))
    }
  }
}
