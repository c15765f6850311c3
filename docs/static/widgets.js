// Where require.js finds anywidget, and the small part of MathJax 2 that the widget manager asks for.
(function () {
  var here = document.currentScript.src.replace(/widgets\.js.*$/, "");
  window.require.config({ paths: { anywidget: here + "widgets/anywidget" } });
  window.MathJax = window.MathJax || {};
  window.MathJax.Hub = {
    Queue: function (args) {
      if (window.MathJax.typesetPromise) window.MathJax.typesetPromise([args[2]]);
    },
  };
})();
